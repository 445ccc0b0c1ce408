// The dialog to sign in.

import { setText } from './dom.js';
import { NOBODY, identityOf } from './identity.js';

/** Shows who uses the page, and lets the user change that. */
export class SignIn {
  /** `use(identity)` is called with the new identity. */
  constructor(use) {
    const byId = (id) => document.getElementById(id);
    this.use = use;
    this.button = byId('account');
    this.dialog = byId('sign-in');
    this.token = byId('token');
    this.userId = byId('user-id');
    this.problem = byId('sign-in-problem');
    this.notice = byId('notice');
    this.user = byId('user');
    this.button.addEventListener('click', () => this.#toggle());
    byId('sign-in-cancel').addEventListener('click', () => this.dialog.close());
    byId('sign-in-form').addEventListener('submit', (event) => {
      event.preventDefault();
      this.#submit();
    });
  }

  /** Shows the identity, and a notice if it has been lost. */
  show(identity, notice = '') {
    this.identity = identity;
    setText(this.user, identity.userId ?? '');
    setText(this.button, identity.userId ? 'Sign out' : 'Sign in');
    setText(this.notice, notice);
    this.notice.hidden = notice === '';
  }

  #toggle() {
    if (this.identity.userId !== null) {
      this.use(NOBODY);
      return;
    }
    setText(this.problem, '');
    this.dialog.showModal();
  }

  #submit() {
    const identity = identityOf(this.token.value, this.userId.value);
    if (identity === null) {
      setText(this.problem, this.token.value.trim() === ''
        ? 'Paste a token, or enter a user id.'
        : 'This token names no user. Enter the user id too.');
      return;
    }
    this.token.value = '';
    this.dialog.close();
    this.use(identity);
  }
}
