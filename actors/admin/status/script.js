"use strict";
const $ = id => document.getElementById(id);
const out = $("out-of-service"), level = $("log-level"), headline = $("headline");
let ended = false; // the process has said how its stop went

function show(status) {
	if (document.body.dataset.pid !== String(status.pid)) return location.reload(); // its successor
	if (headline.textContent !== status.headline) { // or screen readers say it each second
		headline.textContent = status.headline;
		headline.dataset.level = status.level;
		document.title = document.title.replace(/^[^–]*/, status.headline + " ");
	}
	$("live").innerHTML = status.html; // escaped by the server
	out.setAttribute("aria-pressed", status.outOfService);
	if (level && document.activeElement !== level) level.value = status.logLevel;
	$("settings").hidden = ended = status.phase === "stopped";
}

function say(text) {
	if ($("message").textContent !== text) $("message").textContent = text;
}

async function put(path, value) {
	try {
		const answer = await fetch(path, { method: "PUT", body: value });
		say(answer.ok ? "" : await answer.text());
	} catch {
		say("The process does not answer.");
	}
}

out.onclick = () => {
	const on = out.getAttribute("aria-pressed") !== "true";
	out.setAttribute("aria-pressed", on);
	put("/ready", on ? "off" : "on");
};
if (level) level.onchange = () => put("/log-level", level.value);
$("settings").hidden = false;

const events = new EventSource("/status/events");
events.onopen = () => say("");
events.onmessage = e => show(JSON.parse(e.data));
events.onerror = () => say(ended ? "The process has ended: this is the last that it said." : "The process does not answer: this is the last that it said.");
