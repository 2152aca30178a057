package extension

import (
	"net/http"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"

	"holdfast.dev/holdfast/api"
	"holdfast.dev/holdfast/internal/base/fault"
	"holdfast.dev/holdfast/internal/httpapi/route"
	"holdfast.dev/holdfast/internal/image"
)

// maxTop bounds the lists of an analysis: they are kept in memory.
const maxTop = 1000

func (rt *Router) analyze(w http.ResponseWriter, r *http.Request) error {
	var in api.AnalyzeRequest
	if err := route.Decode(r, &in, false); err != nil {
		return err
	}
	switch {
	case in.Image == "":
		return fault.New(errdefs.ErrInvalidArgument, "an analysis needs an image")
	case in.Top < 0 || in.Top > maxTop:
		return fault.New(errdefs.ErrInvalidArgument, "invalid top %d: want 0 to %d", in.Top, maxTop)
	}
	o := image.AnalyzeOptions{Top: in.Top}
	if in.Platform != "" {
		p, err := platforms.Parse(in.Platform)
		if err != nil {
			return fault.Wrap(errdefs.ErrInvalidArgument, err, "invalid platform")
		}
		o.Platform = &p
	}
	if r.Header.Get("Accept") != api.TypeMessages {
		out, err := rt.images.Analyze(r.Context(), in.Image, o)
		if err != nil {
			return err
		}
		return route.JSON(w, http.StatusOK, analysis(out))
	}
	messages := route.NewMessages(w, image.WriteError)
	messages.Type = api.TypeMessages
	o.Progress = image.NewProgress(messages)
	out, err := rt.images.Analyze(r.Context(), in.Image, o)
	if err == nil {
		o.Progress.Aux(analysis(out))
	}
	return messages.End(err)
}

func analysis(a image.Analysis) api.ImageAnalysis {
	out := api.ImageAnalysis{
		ID: a.ID, Names: a.Names, Bytes: a.Bytes, Wasted: a.Wasted, Duplicated: a.Duplicated, Efficiency: a.Efficiency,
		TookNanos: a.Took.Nanoseconds(),
		Layers:    []api.AnalyzedLayer{}, TopWasted: []api.WastedPath{}, TopCopies: []api.CopiedContent{},
		Shared: []api.SharingImage{}, Advice: []api.AnalysisAdvice{},
	}
	for i, l := range a.Report.Layers {
		out.Layers = append(out.Layers, api.AnalyzedLayer{
			Index: l.Index, Digest: a.Blobs[i].Digest.String(), DiffID: a.Diffs[i].String(), BlobSize: a.Blobs[i].Size,
			CreatedBy: l.CreatedBy, Entries: l.Entries, Bytes: l.Bytes,
			Added: api.FileCount(l.Added), Changed: api.FileCount(l.Changed), Removed: api.FileCount(l.Removed),
			Rewritten: l.Rewritten, Wasted: l.Wasted, Duplicated: l.Duplicated,
		})
	}
	for _, v := range a.TopWasted {
		out.TopWasted = append(out.TopWasted, api.WastedPath{Path: v.Path, Bytes: v.Bytes, Times: v.Times, By: v.By, How: string(v.How)})
	}
	for _, v := range a.TopCopies {
		out.TopCopies = append(out.TopCopies, api.CopiedContent(v))
	}
	for _, v := range a.Shared {
		out.Shared = append(out.Shared, api.SharingImage(v))
	}
	for _, v := range a.Advice {
		out.Advice = append(out.Advice, api.AnalysisAdvice(v))
	}
	return out
}
