package daemon

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/api"
	"holdfast.dev/holdfast/internal/httpapi/route"
)

const openAPIFile = "../../api/openapi.json"

// operation is what a route's handler does not tell by itself.
type operation struct {
	summary string
	in      any    // JSON that it takes; nil: none
	out     any    // JSON that it answers; nil: no body
	status  int    // 0: 200, or 204 without a body
	media   string // of a body that is no JSON
	takes   string // the same of a request
	header  string // an answer's header that counts
	told    bool   // who accepts api.TypeMessages gets the progress, too
}

const (
	tarType  = "application/x-tar"
	messages = "application/json" // one after the other, as docker pull's
)

// operations are all of /holdfast/v1, but for the pages of the dashboard.
var operations = map[string]operation{
	"GET " + api.PathOpenAPI:             {summary: "Get this document", out: map[string]any{}},
	"GET " + api.PathOutdated:            {summary: "List the images that stand on an old base", out: []api.OutdatedImage{}},
	"POST " + api.PathAnalyze:            {summary: "Read all layers of an image", in: api.AnalyzeRequest{}, out: api.ImageAnalysis{}, told: true},
	"POST " + api.PathCheck:              {summary: "Try what a database needs of a volume or directory", in: api.CheckRequest{}, out: api.CheckReport{}},
	"GET " + api.PathUsage:               {summary: "Tell the sizes of what changes", out: api.UsageReport{}},
	"POST " + api.PathPrune:              {summary: "Remove what nobody uses, or say what that would be", in: api.PruneRequest{}, out: api.PruneReport{}},
	"GET " + api.PathStoragePolicy:       {summary: "Tell the storage policy and what it says now", out: api.StoragePolicy{}},
	"POST " + api.PathStorageRun:         {summary: "Run the storage policy", out: api.StorageRun{}},
	"GET " + api.PathStorageLog:          {summary: "Tell the last runs of the policy", out: []api.StorageRun{}},
	"GET " + api.PathStorageTop:          {summary: "Tell who grew", out: []api.StorageGrowth{}},
	"GET " + api.PathStorageExplain:      {summary: "Say why bytes are there", out: api.StorageExplanation{}},
	"GET " + api.PathStorageHost:         {summary: "Compare what the daemon tells with what is on the disk", out: api.HostReport{}},
	"POST " + api.PathStorageRepair:      {summary: "Remove what belongs to nobody", in: api.RepairRequest{}, out: []api.HostOrphan{}},
	"GET " + api.PathTrash:               {summary: "List removed volumes that can be had back", out: []api.TrashedVolume{}},
	"DELETE " + api.PathTrash:            {summary: "Empty the trash", out: []api.TrashedVolume{}},
	"DELETE " + api.PathTrashed:          {summary: "Remove a volume from the trash for good"},
	"POST " + api.PathUndelete:           {summary: "Take a volume out of the trash", in: api.VolumeRename{}, out: api.VolumeCopied{}},
	"POST " + api.PathSnapshotGroup:      {summary: "Make snapshots of several volumes as of one moment", in: api.SnapshotGroup{}, out: []api.SnapshotTaken{}, status: http.StatusCreated},
	"GET " + api.PathSnapshots:           {summary: "List the snapshots of all volumes", out: []api.Snapshot{}},
	"POST " + api.PathSnapshotPrune:      {summary: "Remove old snapshots", in: api.SnapshotPrune{}, out: []api.Snapshot{}},
	"GET " + api.PathVolume:              {summary: "Show a volume", out: api.Volume{}},
	"GET " + api.PathVolumeSnapshots:     {summary: "List the snapshots of a volume", out: []api.Snapshot{}},
	"POST " + api.PathVolumeSnapshots:    {summary: "Keep the present state of a volume", in: api.SnapshotCreate{}, out: api.VolumeCopied{}, status: 201},
	"GET " + api.PathSnapshot:            {summary: "Show a snapshot with its size", out: api.Snapshot{}},
	"DELETE " + api.PathSnapshot:         {summary: "Remove a snapshot"},
	"POST " + api.PathRollback:           {summary: "Put a snapshot's state in place of the volume's", in: api.Rollback{}, out: api.VolumeCopied{}},
	"POST " + api.PathVolumeClone:        {summary: "Make a volume of another or of its snapshot", in: api.VolumeClone{}, out: api.VolumeCopied{}, status: 201},
	"POST " + api.PathVolumeRename:       {summary: "Give a volume another name", in: api.VolumeRename{}},
	"POST " + api.PathVolumeResize:       {summary: "Set what a volume may hold", in: api.VolumeResize{}},
	"POST " + api.PathVolumeMove:         {summary: "Give a volume another driver or pool", in: api.VolumeMove{}, out: api.VolumeCopied{}},
	"POST " + api.PathVolumeProtect:      {summary: "Forbid, or allow again, that a volume or snapshot is removed", in: api.VolumeProtect{}},
	"HEAD " + api.PathVolumeFiles:        {summary: "Describe a file of a volume or VOLUME@SNAPSHOT", status: 200, header: api.PathStatHeader},
	"GET " + api.PathVolumeFiles:         {summary: "Read a file or directory of a volume or VOLUME@SNAPSHOT", media: tarType, header: api.PathStatHeader},
	"PUT " + api.PathVolumeFiles:         {summary: "Unpack a tar into a directory of a volume", takes: tarType},
	"GET " + api.PathVolumeExport:        {summary: "Export a volume", media: tarType},
	"POST " + api.PathVolumeImport:       {summary: "Make a volume of a tar", takes: tarType, out: api.VolumeImported{}, status: 201},
	"POST " + api.PathVolumePush:         {summary: "Send a volume to an image registry", media: messages},
	"POST " + api.PathVolumePull:         {summary: "Make a volume of one in an image registry", media: messages},
	"GET " + api.PathPools:               {summary: "List pools", out: []api.Pool{}},
	"POST " + api.PathPools:              {summary: "Make a pool", in: api.PoolCreate{}, out: api.Pool{}, status: 201},
	"GET " + api.PathPool:                {summary: "Show a pool", out: api.Pool{}},
	"DELETE " + api.PathPool:             {summary: "Remove a pool"},
	"POST " + api.PathPoolGrow:           {summary: "Make a pool larger", in: api.PoolGrow{}, out: api.Pool{}},
	"POST " + api.PathPoolCheck:          {summary: "Read everything in a pool and compare it with its checksums", out: api.PoolCheck{}},
	"GET " + api.PathBackupRepositories:  {summary: "List the repositories of backups", out: []api.BackupRepository{}},
	"POST " + api.PathBackupRepositories: {summary: "Add a repository of backups", in: api.BackupRepositoryAdd{}, out: api.BackupRepository{}, status: 201},
	"DELETE " + api.PathBackupRepository: {summary: "Forget a repository; its backups stay"},
	"GET " + api.PathBackups:             {summary: "List backups", out: api.BackupList{}},
	"POST " + api.PathVolumeBackup:       {summary: "Back a volume up", in: api.BackupCreate{}, out: api.Backup{}, status: 201},
	"DELETE " + api.PathBackup:           {summary: "Remove a backup", out: api.Backup{}},
	"POST " + api.PathBackupRestore:      {summary: "Restore a backup", in: api.BackupRestore{}, out: api.BackupRestored{}, status: 201},
	"POST " + api.PathBackupVerify:       {summary: "Restore a backup aside and compare", out: api.BackupVerification{}},
	"GET " + api.PathSets:                {summary: "List stateful sets", out: []api.StatefulSet{}},
	"GET " + api.PathSet:                 {summary: "Show a stateful set", out: api.StatefulSet{}},
	"POST " + api.PathSetSwitch:          {summary: "Have another member lead", in: api.StatefulSwitchover{}},
	"POST " + api.PathSetRebuild:         {summary: "Have a follower copy its data from the leader anew", in: api.StatefulRebuild{}},
	"POST " + api.PathSetPause:           {summary: "Have nobody take over"},
	"POST " + api.PathSetResume:          {summary: "End a pause"},
}

// TestOpenAPISpec fails where a route, a parameter, a body or a field of
// /holdfast/v1 is not in api/openapi.json. To write that anew:
//
//	make golden-update
func TestOpenAPISpec(t *testing.T) {
	s := newSpec(t)
	var d Daemon
	seen := map[string]bool{}
	for _, rt := range d.routers() {
		for _, r := range rt.Routes() {
			if !strings.HasPrefix(r.Path, api.Prefix+"/") {
				continue
			}
			key := r.Method + " " + r.Path
			op, ok := operations[key]
			if !ok {
				t.Errorf("%s is not among the operations of this test", key)
				continue
			}
			seen[key] = true
			s.add(r, op)
		}
	}
	for key := range operations {
		if !seen[key] {
			t.Errorf("%s is in the document, and nothing serves it", key)
		}
	}
	for name := range s.types {
		if !s.used[name] && !notInBodies[name] {
			t.Errorf("api.%s is in no operation", name)
		}
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(s.document()); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(openAPIFile, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !bytes.Equal(b.Bytes(), api.OpenAPI) {
		t.Errorf("api/openapi.json is not what the routers and types say: make golden-update")
	}
}

// notInBodies are types that no operation names: they are in a header
// and in a stream of messages.
var notInBodies = map[string]bool{"PathStat": true, "VolumePushed": true}

// spec collects the document.
type spec struct {
	t       *testing.T
	paths   map[string]map[string]any
	schemas map[string]any
	types   map[string]typeDoc
	used    map[string]bool
	sources map[string]map[string]*ast.FuncDecl // by folder, by name
}

// typeDoc is what the source says of a type.
type typeDoc struct {
	text   string
	fields map[string]string
}

func newSpec(t *testing.T) *spec {
	return &spec{
		t: t, paths: map[string]map[string]any{}, schemas: map[string]any{}, types: documented(t),
		used: map[string]bool{}, sources: map[string]map[string]*ast.FuncDecl{},
	}
}

func parsed(t *testing.T, dir string) []*ast.File {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(names) == 0 {
		t.Fatalf("%s: %v", dir, err)
	}
	var out []*ast.File
	fset := token.NewFileSet()
	for _, n := range names {
		if strings.HasSuffix(n, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(fset, n, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, f)
	}
	return out
}

// documented reads the comments of the structs of api.
func documented(t *testing.T) map[string]typeDoc {
	t.Helper()
	out := map[string]typeDoc{}
	for _, f := range parsed(t, "../../api") {
		for _, decl := range f.Decls {
			g, ok := decl.(*ast.GenDecl)
			if !ok || g.Tok != token.TYPE {
				continue
			}
			for _, sp := range g.Specs {
				ts, ok := sp.(*ast.TypeSpec)
				if !ok {
					continue
				}
				st, ok := ts.Type.(*ast.StructType)
				if !ok {
					continue
				}
				text := ts.Doc.Text()
				if text == "" {
					text = g.Doc.Text()
				}
				td := typeDoc{text: line(text), fields: map[string]string{}}
				for _, fl := range st.Fields.List {
					for _, n := range fl.Names {
						td.fields[n.Name] = strings.TrimSpace(line(fl.Doc.Text()) + " " + line(fl.Comment.Text()))
					}
				}
				out[ts.Name.Name] = td
			}
		}
	}
	return out
}

func line(s string) string { return strings.Join(strings.Fields(s), " ") }

// schema is a type's.
func (s *spec) schema(t reflect.Type) map[string]any {
	switch {
	case t == reflect.TypeFor[time.Time]():
		return map[string]any{"type": "string", "format": "date-time"}
	case t == reflect.TypeFor[json.RawMessage](), t.Kind() == reflect.Interface:
		return map[string]any{}
	}
	switch t.Kind() {
	case reflect.String:
		return map[string]any{"type": "string"}
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Int64, reflect.Uint64:
		return map[string]any{"type": "integer", "format": "int64"}
	case reflect.Int, reflect.Int32, reflect.Uint32:
		return map[string]any{"type": "integer"}
	case reflect.Float64:
		return map[string]any{"type": "number"}
	case reflect.Slice:
		return map[string]any{"type": []string{"array", "null"}, "items": s.schema(t.Elem())}
	case reflect.Map:
		return map[string]any{"type": []string{"object", "null"}, "additionalProperties": s.schema(t.Elem())}
	case reflect.Pointer:
		return map[string]any{"anyOf": []any{s.schema(t.Elem()), map[string]any{"type": "null"}}}
	case reflect.Struct:
		s.define(t)
		return map[string]any{"$ref": "#/components/schemas/" + t.Name()}
	default:
		s.t.Errorf("%s: what is it in JSON?", t)
		return nil
	}
}

func (s *spec) define(t reflect.Type) {
	if s.used[t.Name()] {
		return
	}
	s.used[t.Name()] = true
	props, required := map[string]any{}, []string{}
	for _, f := range reflect.VisibleFields(t) {
		name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "-" || f.Anonymous {
			continue
		}
		if name == "" {
			s.t.Errorf("%s.%s has no name in JSON", t, f.Name)
			continue
		}
		p := s.schema(f.Type)
		if text := s.types[t.Name()].fields[f.Name]; text != "" {
			p["description"] = text
		}
		props[name] = p
		if !strings.Contains(opts, "omitempty") && !strings.Contains(opts, "omitzero") {
			required = append(required, name)
		}
	}
	def := map[string]any{"type": "object", "properties": props, "description": s.types[t.Name()].text}
	if len(required) > 0 {
		slices.Sort(required)
		def["required"] = required
	}
	s.schemas[t.Name()] = def
}

// requested is schema for a body that a client sends: what it leaves out is zero.
func (s *spec) requested(t reflect.Type) map[string]any {
	ref := s.schema(t)
	if def, ok := s.schemas[t.Name()].(map[string]any); ok {
		delete(def, "required")
	}
	return ref
}

var handlerName = regexp.MustCompile(`/internal/([^.]+)\.(?:.*\.)?\(\*?Router\)\.(\w+?)(?:-fm|\.func\d+)?$`)

// handler finds the source of a route's handler and what it calls in its package.
func (s *spec) handler(r route.Route) []*ast.FuncDecl {
	full := runtime.FuncForPC(reflect.ValueOf(r.Handler).Pointer()).Name()
	m := handlerName.FindStringSubmatch(full)
	if m == nil {
		s.t.Errorf("%s %s: handler %s is not a router's", r.Method, r.Path, full)
		return nil
	}
	dir := filepath.Join("..", m[1])
	if s.sources[dir] == nil {
		s.sources[dir] = map[string]*ast.FuncDecl{}
		for _, f := range parsed(s.t, dir) {
			for _, d := range f.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok {
					s.sources[dir][fn.Name.Name] = fn
				}
			}
		}
	}
	out := []*ast.FuncDecl{s.sources[dir][m[2]]}
	ast.Inspect(out[0], func(n ast.Node) bool {
		if c, ok := n.(*ast.CallExpr); ok {
			if id, ok := c.Fun.(*ast.Ident); ok && s.sources[dir][id.Name] != nil && !slices.Contains(out, s.sources[dir][id.Name]) {
				out = append(out, s.sources[dir][id.Name])
			}
		}
		return true
	})
	return out
}

// read tells what a handler reads: the type that it decodes, and the names of
// parameters.
func read(fns []*ast.FuncDecl) (in string, params map[string]string) {
	params = map[string]string{}
	text := func(e ast.Expr) (string, bool) {
		l, ok := e.(*ast.BasicLit)
		if !ok || l.Kind != token.STRING {
			return "", false
		}
		s, err := strconv.Unquote(l.Value)
		return s, err == nil
	}
	for _, fn := range fns {
		ast.Inspect(fn, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.ValueSpec:
				if sel, ok := n.Type.(*ast.SelectorExpr); ok && len(n.Names) == 1 && n.Names[0].Name == "in" {
					in = sel.Sel.Name
				}
			case *ast.IndexExpr:
				if id, ok := n.X.(*ast.Ident); ok && id.Name == "q" {
					if name, ok := text(n.Index); ok {
						params[name] = "array"
					}
				}
			case *ast.CallExpr:
				sel, ok := n.Fun.(*ast.SelectorExpr)
				if !ok || len(n.Args) == 0 {
					return true
				}
				name, ok := text(n.Args[len(n.Args)-1])
				switch {
				case !ok:
				case sel.Sel.Name == "Bool":
					params[name] = "boolean"
				case sel.Sel.Name == "FormValue", sel.Sel.Name == "Get" && isQuery(sel.X):
					params[name] = "string"
				}
			}
			return true
		})
	}
	return in, params
}

func isQuery(e ast.Expr) bool {
	id, ok := e.(*ast.Ident)
	return ok && id.Name == "q"
}

var pathVar = regexp.MustCompile(`\{(\w+)\}`)

// add enters one route.
func (s *spec) add(r route.Route, op operation) {
	key := r.Method + " " + r.Path
	in, query := read(s.handler(r))
	want := ""
	if op.in != nil {
		want = reflect.TypeOf(op.in).Name()
	}
	if in != want {
		s.t.Errorf("%s decodes %q, the document says %q", key, in, want)
	}
	params := []any{}
	for _, m := range pathVar.FindAllStringSubmatch(r.Path, -1) {
		params = append(params, map[string]any{"name": m[1], "in": "path", "required": true, "schema": map[string]any{"type": "string"}})
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		sch := map[string]any{"type": query[name]}
		if query[name] == "array" {
			sch["items"] = map[string]any{"type": "string"}
		}
		params = append(params, map[string]any{"name": name, "in": "query", "schema": sch})
	}
	o := map[string]any{"summary": op.summary, "operationId": operationID(r)}
	if len(params) > 0 {
		o["parameters"] = params
	}
	content := func(media string, v map[string]any) map[string]any {
		return map[string]any{media: map[string]any{"schema": v}}
	}
	binary := map[string]any{"type": "string", "format": "binary"}
	switch {
	case op.takes != "":
		o["requestBody"] = map[string]any{"required": true, "content": content(op.takes, binary)}
	case op.in != nil:
		o["requestBody"] = map[string]any{"content": content("application/json", s.requested(reflect.TypeOf(op.in)))}
	}
	good := map[string]any{"description": "Done"}
	status := op.status
	switch {
	case op.media != "":
		good["content"] = content(op.media, binary)
	case op.out != nil:
		good["content"] = content("application/json", s.schema(reflect.TypeOf(op.out)))
	case status == 0:
		status = http.StatusNoContent
	}
	if op.told {
		good["content"].(map[string]any)[api.TypeMessages] = map[string]any{"schema": map[string]any{"type": "string"}}
	}
	if status == 0 {
		status = http.StatusOK
	}
	if op.header != "" {
		good["headers"] = map[string]any{op.header: map[string]any{
			"schema": map[string]any{"type": "string"}, "description": "A PathStat, as JSON in base64",
		}}
		s.define(reflect.TypeFor[api.PathStat]())
	}
	o["responses"] = map[string]any{
		strconv.Itoa(status): good,
		"default":            map[string]any{"description": "What went wrong", "content": content("application/json", map[string]any{"$ref": "#/components/schemas/Error"})},
	}
	if s.paths[r.Path] == nil {
		s.paths[r.Path] = map[string]any{}
	}
	s.paths[r.Path][strings.ToLower(r.Method)] = o
}

// operationID is a name for generators of clients.
func operationID(r route.Route) string {
	id := strings.ToLower(r.Method)
	for part := range strings.SplitSeq(strings.TrimPrefix(r.Path, api.Prefix+"/"), "/") {
		part = strings.Trim(strings.TrimSuffix(part, ".json"), "{}")
		id += strings.ToUpper(part[:1]) + part[1:]
	}
	return id
}

func (s *spec) document() map[string]any {
	s.schemas["Error"] = map[string]any{
		"type": "object", "properties": map[string]any{"message": map[string]any{"type": "string"}}, "required": []string{"message"},
		"description": "An error, as Docker tells it.",
	}
	var about string
	for _, f := range parsed(s.t, "../../api") {
		if f.Doc != nil {
			about = line(f.Doc.Text())
		}
	}
	return map[string]any{
		"openapi": "3.1.0",
		"info":    map[string]any{"title": "Holdfast, beyond Docker's API", "version": "1", "description": about},
		"paths":   s.paths, "components": map[string]any{"schemas": s.schemas},
	}
}
