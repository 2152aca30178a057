// Shows the page anew when the engine says that something changed, but never
// takes from under somebody's hands what they are choosing.
"use strict";
const live = document.getElementById("live");
let choosing = false;
live.addEventListener("change", () => { choosing = true; });
live.addEventListener("submit", () => { choosing = false; });
const changes = new EventSource("changes");
changes.addEventListener("changed", async () => {
	if (choosing) return;
	const answer = await fetch("./");
	if (!answer.ok || choosing) return;
	const page = new DOMParser().parseFromString(await answer.text(), "text/html");
	live.replaceChildren(...page.getElementById("live").childNodes);
});
