package parity

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"strings"
	"testing"

	"holdfast.dev/holdfast/internal/testkit"
)

// twoPlatforms is an OCI layout with one image of two platforms.
func twoPlatforms(t *testing.T, ref string) []byte {
	t.Helper()
	files := testkit.Layer{"oci-layout": {Body: `{"imageLayoutVersion":"1.0.0"}`}}
	blob := func(mediaType string, v any) map[string]any {
		body, ok := v.([]byte)
		if !ok {
			var err error
			if body, err = json.Marshal(v); err != nil {
				t.Fatal(err)
			}
		}
		sum := sha256.Sum256(body)
		name := hex.EncodeToString(sum[:])
		files["blobs/sha256/"+name] = testkit.File{Body: string(body)}
		return map[string]any{"mediaType": mediaType, "digest": "sha256:" + name, "size": len(body)}
	}
	var manifests []any
	for _, arch := range []string{"amd64", "arm64"} {
		layer := blob("application/vnd.oci.image.layer.v1.tar", testkit.Layer{arch: {Body: arch}}.Tar())
		config := blob("application/vnd.oci.image.config.v1+json", map[string]any{
			"os": "linux", "architecture": arch, "config": map[string]any{"Cmd": []string{"x"}},
			"rootfs": map[string]any{"type": "layers", "diff_ids": []any{layer["digest"]}},
		})
		m := blob("application/vnd.oci.image.manifest.v1+json", map[string]any{
			"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": []any{layer},
		})
		m["platform"] = map[string]string{"os": "linux", "architecture": arch}
		manifests = append(manifests, m)
	}
	index := map[string]any{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests}
	top := blob("application/vnd.oci.image.index.v1+json", index)
	top["annotations"] = map[string]string{"io.containerd.image.name": "docker.io/library/" + ref, "org.opencontainers.image.ref.name": "1"}
	b, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": []any{top}})
	if err != nil {
		t.Fatal(err)
	}
	files["index.json"] = testkit.File{Body: string(b)}
	return files.Tar()
}

func platform(arch string) string {
	return url.QueryEscape(`{"os":"linux","architecture":"` + arch + `"}`)
}

// inspectsPlatforms: each platform of an image can be looked at and saved.
func inspectsPlatforms(t *testing.T, x *ctx) {
	x.ok("POST", "/images/load", twoPlatforms(t, "two:1"))
	for _, arch := range []string{"amd64", "arm64"} {
		if got := x.ok("GET", "/images/two:1/json?platform="+platform(arch), nil); !strings.Contains(got, `"Architecture":"`+arch+`"`) {
			t.Errorf("%s: %s", arch, got)
		}
		other := map[string]string{"amd64": "arm64", "arm64": "amd64"}[arch]
		if got := x.ok("GET", "/images/two:1/get?platform="+platform(arch), nil); !strings.Contains(got, `"architecture":"`+arch+`"`) || strings.Contains(got, "\x00"+other+"\x00") {
			t.Errorf("saved for %s: not it, or more", arch)
		}
	}
	if code, body := x.API("GET", "/images/two:1/json?platform="+platform("s390x"), nil); code != 404 || !strings.Contains(string(body), "does not provide the specified platform (linux/s390x)") {
		t.Errorf("another: %d %s", code, body)
	}
}

// removesPlatform: one platform goes, its content with it, and the other stays.
func removesPlatform(t *testing.T, x *ctx) {
	x.ok("POST", "/images/load", twoPlatforms(t, "two:1"))
	x.ok("POST", "/containers/create?name=user&platform=linux/amd64", map[string]any{"Image": "two:1"})
	if code, body := x.API("DELETE", "/images/two:1?platforms="+platform("amd64"), nil); code != 409 || !strings.Contains(string(body), "is using its platform") {
		t.Errorf("one that is used: %d %s", code, body)
	}
	if got := x.ok("DELETE", "/images/two:1?platforms="+platform("arm64"), nil); !strings.Contains(got, `"Deleted":"sha256:`) {
		t.Errorf("%s", got)
	}
	x.ok("GET", "/images/two:1/json?platform="+platform("amd64"), nil)
	got := x.ok("GET", "/images/two:1/json?manifests=1", nil)
	if strings.Count(got, `"Available":true`) != 1 {
		t.Errorf("after the removal: %s", got)
	}
	if code, body := x.API("DELETE", "/images/two:1?platforms="+platform("arm64"), nil); code != 404 {
		t.Errorf("again: %d %s", code, body)
	}
	x.Docker("rm", "user")
	x.ok("DELETE", "/images/two:1", nil)
}
