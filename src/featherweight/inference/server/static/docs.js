SwaggerUIBundle({ url: "openapi.json", dom_id: "#docs", validatorUrl: null });

// Swagger UI has a dark scheme, but does not look at the system's setting.
const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", follow);
follow();
