// The button for light and dark colours, the keys, and the help on them. A key does nothing while
// somebody types, with Ctrl, Alt or Meta, in an open dialog, or if the visitor switched the keys off.
"use strict";
(() => {
  const root = document.documentElement;
  // A browser may keep nothing, or forbid to ask.
  const remembered = (name) => {
    try { return localStorage.getItem(name); } catch { return null; }
  };
  const remember = (name, value) => {
    try {
      if (value === null) localStorage.removeItem(name);
      else localStorage.setItem(name, value);
    } catch { /* it is so for this page alone */ }
  };

  // --- colours ----------------------------------------------------------------------------------

  const system = matchMedia("(prefers-color-scheme: dark)");
  const button = document.getElementById("colours");
  const is_dark = () => root.dataset.colours ? root.dataset.colours === "dark" : system.matches;
  const show = () => button.setAttribute("aria-pressed", String(is_dark()));
  button.addEventListener("click", () => {
    const wanted = is_dark() ? "light" : "dark";
    // Whoever wants what the system says follows the system from then on.
    if ((wanted === "dark") === system.matches) delete root.dataset.colours;
    else root.dataset.colours = wanted;
    remember("colours", root.dataset.colours ?? null);
    show();
  });
  system.addEventListener("change", show);
  // chosen in another window
  addEventListener("storage", (event) => {
    if (event.key !== "colours") return;
    if (event.newValue === "light" || event.newValue === "dark") root.dataset.colours = event.newValue;
    else delete root.dataset.colours;
    show();
  });
  show();

  // --- keys -------------------------------------------------------------------------------------

  const help = document.getElementById("keys");
  const switch_box = document.getElementById("keys-on");
  switch_box.checked = remembered("keys") !== "off";
  switch_box.addEventListener("change", () => remember("keys", switch_box.checked ? null : "off"));
  document.getElementById("help").addEventListener("click", () => help.showModal());
  document.getElementById("keys-close").addEventListener("click", () => help.close());
  document.getElementById("tools").hidden = false;

  const is_typing = (element) => element.isContentEditable
    || ["INPUT", "SELECT", "TEXTAREA"].includes(element.nodeName);
  // The first link of each entry of the page's lists.
  const entries = () => [...document.querySelectorAll("main tbody tr, main .cases > li")]
    .map((entry) => entry.querySelector("a[href]"))
    .filter((link) => link && link.checkVisibility());
  const move = (step) => {
    const links = entries();
    const here = document.activeElement?.closest("tr, .cases > li")?.querySelector("a[href]");
    const at = links.indexOf(here);
    const next = at < 0 ? (step > 0 ? links[0] : links.at(-1)) : links[at + step];
    next?.focus();
  };
  const search = () => {
    const field = document.querySelector("main [role=search] :is(input, select, textarea)");
    if (field) field.focus();
    // a page without a search leads to the one of builds
    else location.assign("/#search");
  };
  const actions = {
    "/": search, "j": () => move(1), "k": () => move(-1), "?": () => help.showModal(),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing || event.defaultPrevented) return;
    if (!switch_box.checked || is_typing(event.target) || document.querySelector("dialog[open]")) return;
    const action = Object.hasOwn(actions, event.key) ? actions[event.key] : null;
    if (!action) return;
    event.preventDefault();
    action();
  });
  if (location.hash === "#search" && location.pathname === "/") search();
})();
