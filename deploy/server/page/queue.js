/** Work on many things, only some at a time, and wait together where the server makes them wait. */

import { Problem } from "./protocol.js";

// How often a thing may be in work when the server goes away: it may be what the server goes away for.
const MOST_FAILURES = 3;

/**
 * Start `work` on what is added, at most `most` at once, in order.
 *
 * Where it throws a Problem, nothing more is started, `recover` is awaited, and what failed comes next, by itself. After
 * too many failures it is handed to `giveUp`. `work` deals with every other error.
 */
export class Queue {
  #waiting = [];
  #running = 0;
  #recovery = null;
  #failures = new Map();

  constructor(most, work, recover, giveUp) {
    Object.assign(this, { most, work, recover, giveUp });
  }

  add(...things) {
    this.#waiting.push(...things);
    this.#go();
  }

  /** Forget what has not begun. */
  clear() {
    this.#waiting = [];
  }

  #go() {
    while (this.#waiting.length && !this.#recovery && this.#running < this.#room) this.#run(this.#waiting.shift());
  }

  /** How many may be in work: what has failed before takes no other with it. */
  get #room() {
    return this.#failures.has(this.#waiting[0]) ? 1 : this.most;
  }

  async #run(thing) {
    this.#running++;
    try {
      await this.work(thing);
      this.#failures.delete(thing);
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      this.#again(thing, problem);
      this.#recovery ??= this.recover(problem).finally(() => (this.#recovery = null));
      await this.#recovery;
    } finally {
      this.#running--;
      this.#go();
    }
  }

  #again(thing, problem) {
    const failures = (this.#failures.get(thing) ?? 0) + (problem.kind === "token" ? 0 : 1);
    this.#failures.set(thing, failures);
    if (failures < MOST_FAILURES) this.#waiting.unshift(thing);
    else {
      this.#failures.delete(thing);
      this.giveUp(thing, problem);
    }
  }
}
