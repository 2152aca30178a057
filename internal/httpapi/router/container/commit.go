package container

import (
	"net/http"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/container"

	domain "holdfast.dev/holdfast/internal/container"
	"holdfast.dev/holdfast/internal/httpapi/route"
)

func (rt *Router) commit(w http.ResponseWriter, r *http.Request) error {
	var body struct{ *container.Config }
	if err := route.Decode(r, &body, true); err != nil {
		return err
	}
	ref, err := repoTag(r.Form.Get("repo"), r.Form.Get("tag"))
	if err != nil {
		return err
	}
	id, err := rt.commits.Commit(r.Context(), domain.CommitOptions{
		Container: r.Form.Get("container"),
		Ref:       ref,
		Comment:   r.Form.Get("comment"),
		Author:    r.Form.Get("author"),
		Pause:     route.BoolOr(r, "pause", true),
		Config:    body.Config,
		Changes:   r.Form["changes"],
	})
	if err != nil {
		return err
	}
	return route.JSON(w, http.StatusCreated, container.CommitResponse{ID: id})
}

// repoTag joins a repository and a tag; nothing where there is no repository.
func repoTag(repo, tag string) (string, error) {
	if repo == "" {
		return "", nil
	}
	ref, err := reference.ParseNormalizedNamed(repo)
	if err != nil {
		return "", invalid("%v", err)
	}
	if _, ok := ref.(reference.Digested); ok {
		return "", invalid("cannot import digest reference")
	}
	if tag == "" {
		return reference.TagNameOnly(ref).String(), nil
	}
	tagged, err := reference.WithTag(ref, tag)
	if err != nil {
		return "", invalid("%v", err)
	}
	return tagged.String(), nil
}
