// Everything here only makes a page quicker or kinder: each page works without it.
import "htmx.org/dist/htmx.esm.js";
import "htmx.org/dist/ext/hx-sse.js";
import { startCopyButtons } from "./copy.js";
import { startLiveOpens } from "./live.js";
import { startForms } from "./forms.js";
import { startRows } from "./rows.js";

startCopyButtons();
startForms();
startLiveOpens();
startRows();
