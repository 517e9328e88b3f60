// A button to copy what has `data-copy`. Without this, or where a browser forbids it, the text can be
// selected.
const add_copy_buttons = () => {
  if (!navigator.clipboard) return;
  for (const text of document.querySelectorAll("[data-copy]")) {
    if (text.nextElementSibling?.classList.contains("copy")) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(text.textContent);
        button.textContent = "Copied";
      } catch {
        button.textContent = "The browser forbids it: select the text";
      }
    });
    text.after(button);
  }
};
document.addEventListener("renewed", add_copy_buttons);
add_copy_buttons();
