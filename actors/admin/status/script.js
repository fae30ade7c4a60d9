"use strict";
const $ = id => document.getElementById(id);
const out = $("out-of-service"), level = $("log-level");

function show(status) {
	if ($("phase").textContent !== status.phase) { // or screen readers say it each second
		$("phase").textContent = status.phase;
		document.title = document.title.replace(/^[^–]*/, status.phase + " ");
	}
	$("live").innerHTML = status.html; // escaped by the server
	out.setAttribute("aria-pressed", status.outOfService);
	if (level && document.activeElement !== level) level.value = status.logLevel;
}

async function put(path, value) {
	try {
		const answer = await fetch(path, { method: "PUT", body: value });
		$("message").textContent = answer.ok ? "" : await answer.text();
	} catch {
		$("message").textContent = "The process does not answer.";
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
events.onopen = () => { $("message").textContent = ""; };
events.onmessage = e => show(JSON.parse(e.data));
events.onerror = () => { $("message").textContent = "The process does not answer: this is the last that it said."; };
