// Keys of the whole page; those of the canvas are the tools'.

// `table`: key -> what it does. Fields that are typed in, and buttons that have the focus, keep theirs.
export function onKeys(table, { isOpen, step, chooseNth }) {
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input:not([type=range]), select, textarea");
    if (!isOpen() || (typing && event.key !== "Escape")) return;
    if (event.ctrlKey || event.metaKey) {
      const key = event.key.toLowerCase();
      if (key === "z") step(!event.shiftKey);
      else if (key === "y") step(false);
      else return;
    } else if (/^[1-9]$/.test(event.key)) chooseNth(Number(event.key) - 1);
    else if (event.target.closest("button, a") && (event.key === " " || event.key === "Enter")) return;
    else if (table[event.key]) table[event.key]();
    else return;
    event.preventDefault();
  });
}
