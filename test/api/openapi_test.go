package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// openAPI is as much of a document as replies are compared with.
type openAPI struct {
	OpenAPI string
	Paths   map[string]map[string]struct {
		Responses map[string]struct {
			Content map[string]struct{ Schema jsonSchema }
		}
	}
	Components struct{ Schemas map[string]jsonSchema }
}

type jsonSchema struct {
	Ref        string `json:"$ref"`
	Type       any
	Required   []string
	Properties map[string]jsonSchema
	Items      *jsonSchema
	AnyOf      []jsonSchema
	Additional *jsonSchema `json:"additionalProperties"`
}

// differs says where a value is not as a schema tells; "" if it is.
func (d *openAPI) differs(s jsonSchema, v any, at string) string {
	if s.Ref != "" {
		s = d.Components.Schemas[strings.TrimPrefix(s.Ref, "#/components/schemas/")]
	}
	if len(s.AnyOf) > 0 {
		if v == nil {
			return ""
		}
		return d.differs(s.AnyOf[0], v, at)
	}
	kinds := []any{}
	switch t := s.Type.(type) {
	case nil:
		return ""
	case []any:
		kinds = t
	default:
		kinds = append(kinds, t)
	}
	is := map[bool]string{}
	switch v := v.(type) {
	case nil:
		is[true] = "null"
	case bool:
		is[true] = "boolean"
	case string:
		is[true] = "string"
	case float64:
		is[true] = "number"
		if slices.Contains(kinds, any("integer")) && v == float64(int64(v)) {
			is[true] = "integer"
		}
	case []any:
		is[true] = "array"
		for i, e := range v {
			if s.Items == nil {
				return at + " is a list"
			}
			if why := d.differs(*s.Items, e, fmt.Sprintf("%s[%d]", at, i)); why != "" {
				return why
			}
		}
	case map[string]any:
		is[true] = "object"
		for k, e := range v {
			of, ok := s.Properties[k]
			if !ok && s.Additional != nil {
				of, ok = *s.Additional, true
			}
			if !ok {
				return at + "." + k + " is not in the document"
			}
			if why := d.differs(of, e, at+"."+k); why != "" {
				return why
			}
		}
		for _, k := range s.Required {
			if _, ok := v[k]; !ok {
				return at + "." + k + " is missing"
			}
		}
	}
	if !slices.Contains(kinds, any(is[true])) {
		return fmt.Sprintf("%s is %s, not %v", at, is[true], kinds)
	}
	return ""
}

func TestOpenAPI(t *testing.T) {
	notOnTwin(t, "Holdfast's own")
	d := daemon(t)
	var doc openAPI
	d.GetJSON("/holdfast/v1/openapi.json", &doc)
	if doc.OpenAPI != "3.1.0" || len(doc.Paths) < 40 {
		t.Fatalf("the document is %s with %d paths", doc.OpenAPI, len(doc.Paths))
	}
	d.Docker("run", "--rm", "-v", "oas:/d", "busybox", "sh", "-c", "echo one > /d/f")
	d.Holdfast("volume", "snapshot", "create", "oas@one")
	d.Holdfast("volume", "clone", "oas", "oas-gone")
	d.Docker("volume", "rm", "oas-gone")
	const stateful, host, explain = "/holdfast/v1/stateful", "/holdfast/v1/storage/host", "/holdfast/v1/storage/explain"
	var compared []string
	for path, ops := range doc.Paths {
		op, ok := ops["get"]
		of, isJSON := op.Responses["200"].Content["application/json"]
		if !ok || !isJSON || path == host || strings.HasPrefix(path, stateful) { // it walks all; they want a swarm
			continue
		}
		at := strings.NewReplacer("{name}", "oas", "{snapshot}", "one").Replace(path)
		switch {
		case path == explain:
			at += "?what=oas"
		case strings.HasSuffix(path, "/pools/{name}"):
			continue
		}
		code, body := d.API(http.MethodGet, at, nil)
		var v any
		if err := json.Unmarshal(body, &v); err != nil || code != http.StatusOK {
			t.Errorf("GET %s: %d, %v: %.200s", at, code, err, body)
			continue
		}
		if why := doc.differs(of.Schema, v, ""); why != "" {
			t.Errorf("GET %s: %s", at, why)
		}
		compared = append(compared, path)
	}
	for _, want := range []string{"/holdfast/v1/volumes/{name}", "/holdfast/v1/trash", "/holdfast/v1/usage", "/holdfast/v1/volumes/{name}/snapshots/{snapshot}"} {
		if !slices.Contains(compared, want) {
			t.Errorf("%s was not compared: only %v", want, compared)
		}
	}
	if code, body := d.API(http.MethodPost, "/holdfast/v1/volumes/oas/clone", map[string]string{"to": "oas-2"}); code != http.StatusCreated {
		t.Errorf("clone: %d %s", code, body)
	} else {
		var v any
		if err := json.Unmarshal(body, &v); err != nil {
			t.Fatal(err)
		}
		if why := doc.differs(doc.Paths["/holdfast/v1/volumes/{name}/clone"]["post"].Responses["201"].Content["application/json"].Schema, v, ""); why != "" {
			t.Errorf("clone: %s", why)
		}
	}
}
