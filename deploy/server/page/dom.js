/** What page.html holds, and how elements are made: from texts, never from HTML. */

export const byId = (id) => document.getElementById(id);

/** What the server has written into the page: names of the protocol, palette, defaults and version. */
export const settings = JSON.parse(byId("settings").textContent);

/** Make an element with properties and children. A child that is a text stays one, whatever it holds. */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** Draw one of the icons of page.html. */
export function icon(name) {
  const drawing = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#icon-${name}`);
  drawing.setAttribute("class", "icon");
  drawing.setAttribute("aria-hidden", "true");
  drawing.append(use);
  return drawing;
}

export const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)} %`;

export const milliseconds = (value) => `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;

export const megabytes = (bytes) => `${(bytes / 2 ** 20).toFixed(bytes < 10 * 2 ** 20 ? 1 : 0)} MB`;

/** Turn a message of the server into a sentence. */
export const sentence = (message) => `${message[0].toUpperCase()}${message.slice(1).replace(/\.?$/, ".")}`;
