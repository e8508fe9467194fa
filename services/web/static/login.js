// The login form: posts name and password, then goes where the person wanted to go on this site.
'use strict';

const form = document.getElementById('login');
const message = document.getElementById('message');
const button = form.querySelector('button');

// Only a path of this site: anything else could send a person who just typed a password to a foreign page.
function destination() {
  const wanted = new URLSearchParams(window.location.search).get('next') || '/';
  try {
    const target = new URL(wanted, window.location.origin);
    return wanted.startsWith('/') && target.origin === window.location.origin ? target.href : '/';
  } catch {
    return '/';
  }
}

function say(text) {
  message.textContent = text;
  message.hidden = false;
}

form.addEventListener('submit', async event => {
  event.preventDefault();
  const name = form.elements.name.value.trim();
  const password = form.elements.password.value;
  if (!name || !password) {
    say('Fill in name and password.');
    return;
  }
  button.disabled = true;
  message.hidden = true;
  try {
    const response = await fetch('/api/v1/session', {
      method: 'POST',
      headers: { 'Content-Type': 'application/json', Accept: 'application/json' },
      body: JSON.stringify({ name, password }),
    });
    if (response.ok) {
      window.location.replace(destination());
      return;
    }
    const problem = await response.json().catch(() => ({}));
    say(problem.detail || 'The platform did not accept this.');
    form.elements.password.value = '';
    form.elements.password.focus();
  } catch {
    say('The platform does not answer.');
  }
  button.disabled = false;
});
