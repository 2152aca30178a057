package api

import _ "embed"

// PathOpenAPI describes all of this for programs: GET, an OpenAPI 3.1 document.
const PathOpenAPI = Prefix + "/openapi.json"

// OpenAPI is that document. A test writes it, from the routers and the types here
// (make golden-update), and fails where it does not tell all.
//
//go:embed openapi.json
var OpenAPI []byte
