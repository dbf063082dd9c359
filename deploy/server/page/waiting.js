/** Wait for the server where it starts, is repaired, is not there or asks for a token, and say so. */

import { byId } from "./dom.js";
import { Problem, describe, isReady, useToken } from "./protocol.js";

const GOES_ON = "This page waits and goes on by itself.";
const TOKEN = /^[\x21-\x7e]+$/;
let asked = false;

/** Read what is served, however long that takes. */
export async function untilServed() {
  for (;;) {
    try {
      return await describe();
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      await wait(problem);
    }
  }
}

/** Return when the reason for a problem is gone, as far as that can be known. */
export async function wait(problem) {
  byId("notice").hidden = false;
  if (problem.kind === "token") await askForToken();
  else await untilReady(problem);
  byId("notice").hidden = true;
}

async function askForToken() {
  say(asked ? "The server does not take this token." : "This server asks for a token.");
  asked = true;
  byId("access").hidden = false;
  byId("token").focus();
  let token = "";
  while (!TOKEN.test(token)) {
    await new Promise((given) => byId("access").addEventListener("submit", given, { once: true }));
    token = byId("token").value.trim();
    byId("token").value = "";
    // No header carries others, as those that nobody sees in a text that was copied.
    if (!TOKEN.test(token)) say("A token has letters, digits and signs alone: this one has something else.");
  }
  useToken(token);
  byId("access").hidden = true;
}

async function untilReady({ kind, message, seconds }) {
  const whose = kind === "lost" ? "The connection to the server is lost." : message;
  say(`${whose} ${GOES_ON}`);
  do await new Promise((done) => setTimeout(done, 1000 * seconds));
  while (!(await isReady()));
}

/** Write a line that screen readers say, once. */
function say(text) {
  if (byId("notice-text").textContent !== text) byId("notice-text").textContent = text;
}

byId("access").addEventListener("submit", (event) => event.preventDefault());
