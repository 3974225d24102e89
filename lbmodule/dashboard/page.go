package dashboard

import (
	"context"
	"embed"
	"fmt"
	"hash/fnv"
	"io/fs"
	"net/http"
	"net/url"
	"path"
	"strings"
)

//go:embed static
var embedded embed.FS

// files are the page and what it needs, by name; build tells them from those of another build.
var files, build = loadFiles()

// file is one of them.
type file struct {
	kind    string // content type
	content []byte
}

var kinds = map[string]string{
	".html": "text/html; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".svg":  "image/svg+xml",
	".txt":  "text/plain; charset=utf-8",
}

const pageFile = "index.html"

func loadFiles() (files map[string]file, build string) {
	files = make(map[string]file)
	sum := fnv.New64a()
	// What is embedded can be read.
	_ = fs.WalkDir(embedded, "static", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := embedded.ReadFile(name)
		files[path.Base(name)] = file{kinds[path.Ext(name)], content}
		sum.Write(content)
		return err
	})
	return files, fmt.Sprintf("%x", sum.Sum64())
}

// servePage answers with one of the files. The page's links are relative, so that it works under every path that ends with a slash;
// a path without one is sent there.
func (d *Dashboard) servePage(w http.ResponseWriter, r *http.Request, v Visit) {
	if f, ok := files[v.File]; ok && v.File != pageFile {
		serveFile(w, f)
		return
	}
	if strings.Contains(v.File, ".") {
		fail(w, http.StatusNotFound, "there is no such file")
		return
	}
	if strings.HasSuffix(v.Path, "/") {
		serveFile(w, file{files[pageFile].kind, d.page(r.Context())})
		return
	}
	// The way is relative, too: whoever stands in front may have taken a part of the path away. As a path it begins with a dot, lest a
	// colon in it make it a URL.
	to := url.URL{Path: "./" + path.Base(v.Path) + "/", RawQuery: r.URL.RawQuery}
	w.Header().Set("Location", to.String())
	w.WriteHeader(http.StatusPermanentRedirect)
}

// page is the page with the state in it. Where there is none, the stream tells why.
func (d *Dashboard) page(ctx context.Context) []byte {
	s := d.hub.shots.get(ctx, period)
	if s.err != nil {
		return files[pageFile].content
	}
	return s.page()
}

func serveFile(w http.ResponseWriter, f file) {
	w.Header().Set("Content-Type", f.kind)
	_, _ = w.Write(f.content)
}
