// The first page of opens is live: the server sends rows that match the filter, htmx puts them on top. This module tells
// people about it: the badge, the spoken announcement, and a fresh list after a break. The list is swapped whenever the
// filter changes, so everything listens on the document and looks the elements up when something happens.
import { announce } from "./announce.js";

const KEEP_ROWS = 200;
const LIST = "#opens-rows";

let waiting = 0;
let timer = null;
let broken = false;

function show(state, text) {
  const badge = document.querySelector("#live-badge");
  if (!badge) return;
  badge.hidden = false;
  badge.dataset.state = state;
  badge.querySelector("[data-text]").textContent = text;
}

function refresh() {
  window.htmx.ajax("GET", location.href, { target: "#results", select: "#results", swap: "outerHTML" });
}

function sayNewOpens() {
  // Gathered, so that a burst is one sentence and not fifty.
  if (waiting) announce(waiting === 1 ? "1 new open arrived." : `${waiting} new opens arrived.`);
  waiting = 0;
  timer = null;
}

function dropKnownRows(message) {
  // The server may send a row again after a reconnection; an open is shown once.
  const template = document.createElement("template");
  template.innerHTML = message.data;
  for (const row of template.content.querySelectorAll("tr[id]")) {
    if (document.getElementById(row.id)) row.remove();
  }
  waiting += template.content.querySelectorAll("tr").length;
  message.data = template.innerHTML.trim();
}

function onLive(name, act) {
  document.addEventListener(name, (event) => {
    if (event.target instanceof Element && event.target.id === "live") act(event);
  });
}

export function startLiveOpens() {
  onLive("htmx:sse:after:connection", () => {
    show("on", "Live");
    // Something may have arrived while the stream was away.
    if (broken) refresh();
    broken = false;
  });
  onLive("htmx:sse:before:connection", (event) => {
    if (event.detail.connection.attempt === 0) return;
    broken = true;
    show("off", "Reconnecting");
  });
  onLive("htmx:sse:error", () => {
    broken = true;
    show("off", "Reconnecting");
  });
  onLive("missed", refresh);
  onLive("signed-out", () => location.assign("/sign-in"));
  onLive("htmx:sse:before:message", (event) => {
    if (event.detail.message.data && !event.detail.message.event) dropKnownRows(event.detail.message);
  });
  onLive("htmx:sse:after:message", () => {
    const rows = document.querySelector(LIST);
    if (!rows || !waiting) return;
    document.querySelector("#opens-empty")?.setAttribute("hidden", "");
    document.querySelector("#opens-table")?.removeAttribute("hidden");
    while (rows.children.length > KEEP_ROWS) rows.lastElementChild.remove();
    timer ??= setTimeout(sayNewOpens, 1500);
  });
  document.addEventListener("htmx:after:swap", () => {
    const results = document.querySelector("#results[data-summary]");
    if (results && results.dataset.said !== "yes") {
      results.dataset.said = "yes";
      announce(results.dataset.summary);
    }
  });
  // The list that came with the page itself was read by the reader of the screen already.
  document.querySelector("#results")?.setAttribute("data-said", "yes");
}
