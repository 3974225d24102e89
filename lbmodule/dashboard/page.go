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

// files holds the page and the files that it loads, by name. build is a hash of them: the page reloads itself when it changes.
var files, build = loadFiles()

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
	// Reading embedded files cannot fail.
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

// servePage answers with one of the files. The page's links are relative, so it works under every path that ends with a slash;
// servePage redirects a path without one.
func (d *Dashboard) servePage(w http.ResponseWriter, r *http.Request, v Visit) {
	if f, ok := files[v.File]; ok && v.File != pageFile {
		serveFile(w, f)
		return
	}
	if strings.Contains(v.File, ".") {
		fail(w, http.StatusNotFound, "file not found")
		return
	}
	if strings.HasSuffix(v.Path, "/") {
		serveFile(w, file{files[pageFile].kind, d.page(r.Context())})
		return
	}
	// The redirect is relative, too, because a proxy in front may have removed a part of the path. It begins with a dot, because a colon
	// in its first segment would otherwise end a scheme (RFC 3986, section 4.2).
	to := url.URL{Path: "./" + path.Base(v.Path) + "/", RawQuery: r.URL.RawQuery}
	w.Header().Set("Location", to.String())
	w.WriteHeader(http.StatusPermanentRedirect)
}

// page returns the page with the current state in it. If there is no state, the page comes without one; the stream will say why.
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
