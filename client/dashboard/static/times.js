// Keeps "5 min ago" and "for 12 s" true while a page stays open, by the gateway's clock: `data-ago`
// on a <time> is how long ago that was, `data-since` how long something goes on. The words are
// those of client/views/formats.py.
"use strict";
(() => {
  const behind = Date.now() - 1000 * Number(document.body.dataset.now);
  const pad = (number) => String(Math.floor(number)).padStart(2, "0");
  const ago = (seconds) => {
    if (seconds < 60) return "just now";
    if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
    if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
    const days = Math.floor(seconds / 86400);
    return `${days} day${days === 1 ? "" : "s"} ago`;
  };
  const span = (seconds) => {
    if (seconds < 60) return `${Math.floor(seconds)} s`;
    if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${pad(seconds % 60)} s`;
    return `${Math.floor(seconds / 3600)} h ${pad(seconds % 3600 / 60)} min`;
  };
  const say = (element, text) => { if (element.textContent !== text) element.textContent = text; };
  const show = () => {
    const now = Date.now() - behind;
    const since = (iso) => Math.max(0, now - Date.parse(iso)) / 1000;
    for (const element of document.querySelectorAll("[data-ago]")) say(element, ago(since(element.dateTime)));
    for (const element of document.querySelectorAll("[data-since]")) say(element, span(since(element.dataset.since)));
  };
  setInterval(() => { if (!document.hidden) show(); }, 1000);
  document.addEventListener("renewed", show);
  document.addEventListener("visibilitychange", show);
})();
