"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("js");

  // A page opened from disk may have no storage: the choice then lasts as long as the page.
  const kept = {
    get() { try { return localStorage.getItem("rdf-theme"); } catch { return null; } },
    set(value) { try { localStorage.setItem("rdf-theme", value); } catch { /* not kept */ } },
  };
  const themes = ["auto", "light", "dark"];
  const setTheme = (name) => {
    if (name === "auto") delete root.dataset.theme; else root.dataset.theme = name;
  };
  let theme = themes.includes(kept.get()) ? kept.get() : "auto";
  setTheme(theme);

  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const make = (tag, attributes = {}, text = "") => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.textContent = text;
    return node;
  };

  function themeSwitch() {
    const button = document.getElementById("theme");
    const say = () => { button.firstElementChild.textContent = theme; };
    say();
    button.addEventListener("click", () => {
      theme = themes[(themes.indexOf(theme) + 1) % themes.length];
      setTheme(theme);
      kept.set(theme);
      say();
    });
  }

  function remember(id) {
    try { history.replaceState(null, "", "#" + encodeURIComponent(id)); } catch { /* not allowed here */ }
  }

  function select(panel) {
    for (const tab of all('[role="tab"]', panel.parentElement)) {
      const chosen = tab.getAttribute("aria-controls") === panel.id;
      const target = document.getElementById(tab.getAttribute("aria-controls"));
      tab.setAttribute("aria-selected", String(chosen));
      tab.tabIndex = chosen ? 0 : -1;
      // Found by the browser's own search where it can; hidden as ever where it cannot.
      if (chosen) target.removeAttribute("hidden"); else target.setAttribute("hidden", "until-found");
    }
  }

  function tabs() {
    for (const section of all("main > section")) {
      const panels = all(":scope > .tab", section);
      if (panels.length < 2) {
        for (const panel of panels) panel.classList.remove("tab");
        continue;
      }
      const list = make("div", { role: "tablist", "aria-label": "Parts of " + section.querySelector("h2").firstChild.textContent.trim() });
      for (const panel of panels) {
        const tab = make("button", { type: "button", role: "tab", id: "tab--" + panel.id, "aria-controls": panel.id }, panel.querySelector("h3").textContent);
        panel.setAttribute("role", "tabpanel");
        panel.setAttribute("aria-labelledby", tab.id);
        panel.addEventListener("beforematch", () => select(panel));
        tab.addEventListener("click", () => { select(panel); remember(panel.id); });
        list.append(tab);
      }
      list.addEventListener("keydown", (event) => {
        const items = all('[role="tab"]', list);
        const at = items.indexOf(document.activeElement);
        const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: items.length - 1 }[event.key];
        if (to === undefined) return;
        event.preventDefault();
        const next = items[(to + items.length) % items.length];
        next.focus();
        next.click();
      });
      panels[0].before(list);
      select(panels[0]);
    }
  }

  function land(behavior = "auto") {
    let id = location.hash.slice(1);
    try { id = decodeURIComponent(id); } catch { /* as it stands */ }
    const target = id && document.getElementById(id);
    if (!target) return;
    const panel = target.closest(".tab[role]");
    if (panel) select(panel);
    for (let box = target.closest("details"); box; box = box.parentElement.closest("details")) box.open = true;
    if (!target.hasAttribute("tabindex") && !target.matches("a, button")) target.tabIndex = -1;
    target.focus({ preventScroll: true });
    target.scrollIntoView({ block: "start", behavior });
  }

  function sorting(table) {
    const heads = all("thead th", table);
    const body = table.tBodies[0];
    const value = (row, index) => {
      const cell = row.cells[index];
      if (cell.dataset.v !== undefined) return Number(cell.dataset.v);
      // A word among numbers, such as a dash, has no place in their order either.
      return cell.matches(".absent, :not(.text, .verdict)") ? null : cell.textContent.trim();
    };
    const compare = (a, b) => {
      if (typeof a === "number" && typeof b === "number") return a - b;
      return String(a).localeCompare(String(b), undefined, { numeric: true });
    };
    const sort = (index) => {
      const head = heads[index];
      const before = head.getAttribute("aria-sort");
      const first = head.dataset.better === "higher" ? "descending" : "ascending";
      const order = !before ? first : before === "ascending" ? "descending" : "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const rows = [...body.rows].map((row) => ({ row, key: value(row, index) }));
      // What was not run or is undefined stays last whichever way the rest is sorted.
      rows.sort((a, b) => (a.key === null) - (b.key === null) || (a.key === null ? 0 : sign * compare(a.key, b.key)));
      body.append(...rows.map(({ row }) => row));
    };
    if (body.rows.length < 2) return;
    heads.forEach((head, index) => {
      const button = make("button", { type: "button" }, head.textContent);
      button.addEventListener("click", () => sort(index));
      head.replaceChildren(button);
    });
  }

  function filtering(block) {
    const rows = all("tbody tr", block);
    const tools = block.querySelector(".tools");
    const group = tools.querySelector("select");
    if (rows.length <= 10 && !group) return;
    const box = make("input", { type: "search", placeholder: "Filter rows", "aria-label": "Filter rows of " + block.querySelector(".caption").textContent });
    const count = make("span", { role: "status", class: "sr" });
    if (rows.length > 10) tools.prepend(box);
    tools.append(count);
    const apply = () => {
      const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !(words.every((word) => text.includes(word)) && (!group || !group.value || row.dataset.group === group.value));
        shown += !row.hidden;
      }
      count.textContent = shown + " of " + rows.length + " rows";
    };
    box.addEventListener("input", apply);
    if (group) group.addEventListener("change", apply);
  }

  function zooming() {
    const dialog = document.getElementById("zoom");
    const stage = dialog.querySelector(".stage");
    for (const button of all("button.zoom")) {
      button.addEventListener("click", () => {
        const shot = button.closest(".shot, figure");
        const drawing = shot.querySelector("svg").cloneNode(true);
        stage.replaceChildren(drawing);
        dialog.querySelector(".caption").textContent = shot.querySelector(".caption, p").textContent.trim();
        dialog.showModal();
      });
    }
    dialog.querySelector("button").addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  }

  function following() {
    const links = all(".toc a");
    const sections = links.map((link) => document.getElementById(link.getAttribute("href").slice(1)));
    const mark = () => {
      const line = innerHeight / 3;
      let at = -1;
      sections.forEach((section, i) => { if (section.getBoundingClientRect().top < line) at = i; });
      links.forEach((link, i) => {
        if (i !== at) return link.removeAttribute("aria-current");
        if (link.hasAttribute("aria-current")) return;
        link.setAttribute("aria-current", "true");
        const list = link.closest("ol");
        if (list.scrollWidth > list.clientWidth) list.scrollTo({ left: link.parentElement.offsetLeft - list.offsetLeft - 16 });
      });
    };
    let waiting = false;
    addEventListener("scroll", () => {
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => { waiting = false; mark(); });
    }, { passive: true });
    mark();
  }

  document.addEventListener("DOMContentLoaded", () => {
    themeSwitch();
    tabs();
    all(".table table").forEach(sorting);
    all(".block.table").forEach(filtering);
    zooming();
    following();
    addEventListener("hashchange", () => land());
    // A link to where the address points already changes nothing by itself, and its tab may be closed by now.
    addEventListener("click", (event) => {
      const link = event.target.closest('a[href^="#"]');
      if (link && link.hash === location.hash) land();
    });
    land("instant");
  });
})();
