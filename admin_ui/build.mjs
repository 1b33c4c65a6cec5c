// Builds static/vendor/ from what `npm ci --ignore-scripts` installed: the design system's style sheet with the fonts
// and icons it names, and one script made of htmx, its event-stream extension and src/.
// Nothing of it is committed. Usage: node build.mjs
import { build } from "esbuild";
import { cp, mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const uswds = join(here, "node_modules", "@uswds", "uswds");
const target = join(here, "static", "vendor");
const fresh = join(here, "static", `vendor.new-${process.pid}`);

// Only families that the pages use; the style sheet also names Merriweather and Roboto Mono faces that no page shows.
const UNUSED_FONTS = /fonts\/(merriweather|roboto-mono)\//;

await rm(fresh, { recursive: true, force: true });
await mkdir(join(fresh, "css"), { recursive: true });

const css = await readFile(join(uswds, "dist", "css", "uswds.min.css"), "utf8");
const withoutMap = css.replace(/\/\*# sourceMappingURL=.*?\*\//g, "");
const used = withoutMap.replace(/@font-face\{[^}]*\}/g, (face) => (UNUSED_FONTS.test(face) ? "" : face));
await writeFile(join(fresh, "css", "uswds.min.css"), used);
const named = new Set([...used.matchAll(/url\(\s*["']?([^"')]+)["']?\s*\)/g)].map((match) => match[1]));
for (const address of named) {
  if (address.startsWith("data:")) continue;
  const inside = join("css", address.split(/[?#]/)[0]);
  await cp(join(uswds, "dist", inside), join(fresh, inside)).catch((error) => {
    throw new Error(`the style sheet names ${inside}, which is not in the package: ${error.message}`);
  });
}

await build({
  entryPoints: [join(here, "src", "app.js")],
  outfile: join(fresh, "app.js"),
  bundle: true,
  minify: true,
  format: "iife",
  target: ["es2022"],
  legalComments: "inline",
  logLevel: "warning",
});

await cp(join(uswds, "LICENSE.md"), join(fresh, "USWDS-LICENSE.md"));
await cp(join(here, "node_modules", "htmx.org", "LICENSE"), join(fresh, "HTMX-LICENSE"));

// The folder is replaced at the end: a build that breaks leaves the old one.
await rm(target, { recursive: true, force: true });
await rename(fresh, target);
