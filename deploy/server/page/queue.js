/** Work on many things, only some at a time, and wait together where the server makes them wait. */

import { Problem } from "./protocol.js";

/**
 * Start `work` on what is added, at most `most` at once, in order.
 *
 * Where it throws a Problem that passes by itself (or with a token), nothing more is started, `recover` is awaited, and
 * what failed comes next. `work` deals with every other error itself.
 */
export class Queue {
  #waiting = [];
  #running = 0;
  #recovery = null;

  constructor(most, work, recover) {
    Object.assign(this, { most, work, recover });
  }

  add(...things) {
    this.#waiting.push(...things);
    this.#go();
  }

  /** Forget what has not begun. */
  clear() {
    this.#waiting = [];
  }

  get unfinished() {
    return this.#waiting.length + this.#running;
  }

  #go() {
    while (this.#running < this.most && this.#waiting.length && !this.#recovery) this.#run(this.#waiting.shift());
  }

  async #run(thing) {
    this.#running++;
    try {
      await this.work(thing);
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      this.#waiting.unshift(thing);
      this.#recovery ??= this.recover(problem).finally(() => (this.#recovery = null));
      await this.#recovery;
    } finally {
      this.#running--;
      this.#go();
    }
  }
}
