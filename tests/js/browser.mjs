// Runs functions in pages of headless Chromium. A task: {page, script, argument}: `page` is opened, then `script`, the
// text of an async function, is called there with `argument`. Or {drive, argument}: `drive` is the text of an async
// function that gets the browser itself, for what a person does.
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";
import { serve } from "./lines.mjs";

const profile = await mkdtemp(join(tmpdir(), "chromium-"));
const PATIENCE = 240_000;
const browser = await chromium.launchPersistentContext(profile, {
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  headless: true,
  timeout: PATIENCE,
  args: [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
  ],
});

browser.setDefaultTimeout(PATIENCE);
browser.setDefaultNavigationTimeout(PATIENCE);

async function run({ page: url, script, drive, argument }) {
  if (drive) return (0, eval)(`(${drive})`)(browser, argument);
  const page = await browser.newPage();
  const console = [];
  page.on("console", (message) => console.push(message.text()));
  const requests = [];
  const open = new Set();
  page.on("request", (request) => {
    requests.push({ method: request.method(), url: request.url() });
    open.add(request);
  });
  page.on("requestfinished", (request) => open.delete(request));
  page.on("requestfailed", (request) => open.delete(request));
  try {
    await page.goto(url);
    const value = await page.evaluate(`(${script})(${JSON.stringify(argument ?? null)})`);
    // A page that is closed takes its last requests with it, a client's goodbye among them.
    while (open.size > 0) await new Promise((resolve) => setTimeout(resolve, 10));
    return { value, console, requests };
  } finally {
    await page.close();
  }
}

serve(run, async () => {
  await browser.close();
  await rm(profile, { recursive: true, force: true });
});
