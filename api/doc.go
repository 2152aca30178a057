// Package api is what Holdfast's daemon offers beyond Docker's API: the paths,
// under their own prefix and version, and the JSON they take and give. Errors
// have the form of Docker's, {"message": …}, with the same status codes. openapi.json describes it for programs.
package api
