// What an audit of accessibility looks for, as a list of complaints about the page that is open.
(() => {
  const found = [];
  const visible = (node) => node.checkVisibility({ opacityProperty: true, visibilityProperty: true });
  const told = (node) => `${node.tagName.toLowerCase()}.${node.className?.baseVal ?? node.className} "${node.textContent.trim().slice(0, 30)}"`;

  // Headings: one of the first level, and no level left out.
  const levels = [...document.querySelectorAll("h1, h2, h3, h4, h5, h6")].filter(visible).map((node) => +node.tagName[1]);
  if (levels.filter((level) => level === 1).length !== 1) found.push(`${levels.filter((level) => level === 1).length} h1`);
  levels.forEach((level, at) => { if (level > (levels[at - 1] ?? 0) + 1) found.push(`heading ${at} goes from ${levels[at - 1]} to ${level}`); });

  // Names: of the page, of pictures, and of what can be pressed or filled in.
  if (!document.documentElement.lang) found.push("no language");
  if (!document.title) found.push("no title");
  for (const node of document.querySelectorAll("img:not([alt]), svg[role=img]:not([aria-label])")) found.push(`no text: ${told(node)}`);
  for (const node of document.querySelectorAll("a[href], button, input:not([type=hidden]), select, textarea")) {
    if (!visible(node)) continue;
    const labels = [...(node.labels ?? [])].map((label) => label.textContent + (label.title ?? "")).join("");
    const name = node.getAttribute("aria-label") || node.title || node.textContent.trim() || labels.trim() || node.querySelector("img[alt]")?.alt || node.placeholder;
    if (!name) found.push(`no name: ${told(node)}`);
  }
  for (const id of [...document.querySelectorAll("[id]")].map((node) => node.id)) {
    if (document.querySelectorAll(`[id="${CSS.escape(id)}"]`).length > 1) found.push(`two of id ${id}`);
  }

  // Width: nothing to scroll sideways but boxes of code.
  const page = document.documentElement;
  if (page.scrollWidth > page.clientWidth) {
    const wide = [...document.querySelectorAll("body *")].find((node) => node.getBoundingClientRect().right > page.clientWidth + 1 && visible(node));
    found.push(`${page.scrollWidth} wide in ${page.clientWidth}: ${wide ? told(wide) : "?"}`);
  }

  // Contrast of text and what is behind it: 4.5, or 3 of large letters.
  const pen = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const known = new Map();
  const parse = (colour) => {  // of any space, as the screen shows it
    if (!known.has(colour)) {
      pen.clearRect(0, 0, 1, 1);
      pen.fillStyle = colour;
      pen.fillRect(0, 0, 1, 1);
      const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data;
      known.set(colour, { r, g, b, a: a / 255 });
    }
    return known.get(colour);
  };
  const over = (top, below) => ({ r: top.r * top.a + below.r * (1 - top.a), g: top.g * top.a + below.g * (1 - top.a), b: top.b * top.a + below.b * (1 - top.a), a: 1 });
  const back = (node) => {
    if (!node) return { r: 255, g: 255, b: 255, a: 1 };
    const own = parse(getComputedStyle(node).backgroundColor);
    return own.a === 1 ? own : over(own, back(node.parentElement));
  };
  const light = ({ r, g, b }) => [r, g, b].map((v) => v / 255).map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)).reduce((sum, v, at) => sum + v * [0.2126, 0.7152, 0.0722][at], 0);
  const seen = new Set();
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const node = texts.currentNode.parentElement;
    if (!texts.currentNode.textContent.trim() || seen.has(node) || !visible(node) || node.closest("script, style, noscript")) continue;
    seen.add(node);
    const style = getComputedStyle(node), behind = back(node);
    const [a, b] = [light(over(parse(style.color), behind)), light(behind)].sort((x, y) => y - x);
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && style.fontWeight >= 700);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < (large ? 3 : 4.5)) found.push(`contrast ${ratio.toFixed(2)}: ${told(node)}`);
  }
  return [...new Set(found)].slice(0, 20);
})()
