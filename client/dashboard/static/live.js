// Keeps a page as it is on the server: where /events says that something changed, the page is
// fetched anew and the elements with `data-live` are brought up to it, node by node, so that focus,
// selection, scrolling and what is unfolded stay. `data-key` tells rows apart, an id or a form's
// address does for others; what is inside `data-keep` belongs to another script and is left alone.
// Afterwards the document has the event `renewed`.
"use strict";
(() => {
  const again_seconds = 5;  // until a lost connection is tried again
  const state = document.getElementById("live-state");
  const page = document.body.dataset;
  let after = page.after;
  let source = null;
  let timer = null;
  let retry = null;
  let is_fetching = false;
  let is_behind = false;  // the page could not be fetched when it should have been
  let is_stale = false;

  if (!document.querySelector("[data-live]")) return;

  const say = (text, kind) => {
    if (state.textContent === text) return;
    state.textContent = text;
    state.className = kind;
  };
  const lost = () => {
    const time = new Date().toLocaleTimeString();
    if (state.className !== "lost") say(`not connected, as of ${time}`, "lost");
  };

  // --- bringing one node up to another ----------------------------------------------------------

  const key_of = (node) => node.nodeType !== Node.ELEMENT_NODE ? ""
    : node.id || node.dataset.key || (node.nodeName === "FORM" && node.getAttribute("action")) || "";
  const is_same = (old, fresh) => old.nodeType === fresh.nodeType && old.nodeName === fresh.nodeName
    && key_of(old) === key_of(fresh);
  const is_typed_in = (node) => node === document.activeElement
    && ["INPUT", "SELECT", "TEXTAREA"].includes(node.nodeName);

  const renew_attributes = (old, fresh) => {
    // what a visitor unfolded or typed is theirs
    const is_theirs = (name) => name === "open" && old.nodeName === "DETAILS";
    for (const {name} of [...old.attributes]) {
      if (!fresh.hasAttribute(name) && !is_theirs(name)) old.removeAttribute(name);
    }
    for (const {name, value} of fresh.attributes) {
      if (old.getAttribute(name) !== value && !is_theirs(name)) old.setAttribute(name, value);
    }
  };
  const renew_node = (old, fresh) => {
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.data !== fresh.data) old.data = fresh.data;
      return;
    }
    if ("keep" in old.dataset || is_typed_in(old) || old.isEqualNode(fresh)) return;
    renew_attributes(old, fresh);
    const wanted = new Set([...fresh.childNodes].map(key_of));
    for (const child of [...old.childNodes]) {
      if (key_of(child) && !wanted.has(key_of(child))) child.remove();
    }
    let place = old.firstChild;
    for (const child of [...fresh.childNodes]) {
      let match = place;
      if (key_of(child)) {
        while (match && !is_same(match, child)) match = match.nextSibling;
      } else if (match && !is_same(match, child)) {
        match = null;
      }
      if (!match) {
        old.insertBefore(document.importNode(child, true), place);
        continue;
      }
      // What stands between them goes, so that the match need not move: moved, it loses the focus.
      while (place !== match && !key_of(place)) {
        const next = place.nextSibling;
        place.remove();
        place = next;
      }
      if (match === place) place = place.nextSibling;
      else old.insertBefore(match, place);
      renew_node(match, child);
    }
    while (place) {
      const next = place.nextSibling;
      place.remove();
      place = next;
    }
  };
  const renew = (fresh) => {
    for (const old of document.querySelectorAll("[data-live]")) {
      const found = fresh.getElementById(old.id);
      if (found) renew_node(old, found);
    }
    if (fresh.title) document.title = fresh.title;
    document.dispatchEvent(new Event("renewed"));
  };

  // --- hearing that something changed -----------------------------------------------------------

  const fetch_page = async () => {
    is_stale = true;
    if (is_fetching) return;
    is_fetching = true;
    while (is_stale) {
      is_stale = false;
      try {
        const answer = await fetch(location.href, {
          cache: "no-store", redirect: "error", headers: {"Pbft-Renewed": "yes", "Accept": "text/html"},
        });
        if (!answer.ok) throw new Error(answer.statusText);
        renew(new DOMParser().parseFromString(await answer.text(), "text/html"));
        is_behind = false;
      } catch {
        is_behind = true;
      }
    }
    is_fetching = false;
    clearTimeout(retry);
    if (is_behind) {
      lost();
      if (source) retry = setTimeout(fetch_page, 1000 * again_seconds);
    } else if (source && source.readyState === EventSource.OPEN) {
      say("live", "live");
    }
  };
  const stop = () => {
    clearTimeout(timer);
    clearTimeout(retry);
    if (source) source.close();
    source = null;
  };
  const follow = () => {
    stop();
    const query = new URLSearchParams({after});
    if (page.build) query.set("build", page.build);
    source = new EventSource(`/events?${query}`);
    source.addEventListener("open", () => is_behind ? fetch_page() : say("live", "live"));
    source.addEventListener("changed", (event) => {
      after = event.lastEventId;
      fetch_page();
    });
    source.addEventListener("error", () => {
      lost();
      // after an answer that is no stream (too many follow already) a browser does not come back
      if (source.readyState === EventSource.CLOSED) timer = setTimeout(follow, 1000 * again_seconds);
    });
  };

  // A browser has few connections to one host: a page that nobody sees keeps none.
  document.addEventListener("visibilitychange", () => document.hidden ? stop() : follow());
  // A page that is left must not keep one either, and one that is come back to is renewed.
  addEventListener("pagehide", stop);
  addEventListener("pageshow", (event) => { if (event.persisted) follow(); });
  if (!document.hidden) follow();
})();
