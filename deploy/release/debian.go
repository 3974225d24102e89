package main

import (
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// debian makes a Debian package. It writes all files as they will be installed, because the packer takes a folder as it is.
func (r *release) debian(machine, program string, common []entry) error {
	root := filepath.Join(r.work, "debian_"+machine)
	const doc = "usr/share/doc/ballast/"
	changes := fmt.Sprintf("ballast (%s) unstable; urgency=medium\n\n  * See CHANGELOG.md beside this file.\n\n -- Ballast <ballastlb@users.noreply.github.com>  %s\n",
		debianVersion(r.number()), r.made.Format(time.RFC1123Z))
	if err := put(root, doc+"changelog.gz", []byte(changes), 0o644); err != nil {
		return err
	}
	all := []entry{
		{from: program, to: "usr/bin/caddy", mode: 0o755},
		{from: "deploy/debian/copyright", to: doc + "copyright"},
		{from: "deploy/debian/lintian-overrides", to: "usr/share/lintian/overrides/ballast"},
		{from: "deploy/debian/Caddyfile", to: "etc/ballast/Caddyfile"},
		{from: "deploy/systemd/ballast.service", to: "usr/lib/systemd/system/ballast.service"},
		{from: "deploy/systemd/ballast.socket", to: "usr/lib/systemd/system/ballast.socket"},
	}
	for _, e := range common {
		switch {
		case strings.HasPrefix(e.to, "man/"):
			e.to = "usr/share/" + e.to + ".gz"
		case e.to == "completions/caddy.bash":
			e.to = "usr/share/bash-completion/completions/caddy"
		case e.to == "completions/caddy.fish":
			e.to = "usr/share/fish/vendor_completions.d/caddy.fish"
		case e.to == "completions/caddy.zsh":
			e.to = "usr/share/zsh/vendor-completions/_caddy"
		case e.to == "CHANGELOG.md", e.to == "README.md":
			e.to = doc + e.to + ".gz"
		case e.to == "Caddyfile.example":
			e.to = doc + "examples/Caddyfile"
		default: // the file copyright names the license
			continue
		}
		all = append(all, e)
	}
	// The units name the folders of a manual installation; the package has others. They also differ from those of Caddy's package, which
	// deletes its folders when it is purged, possibly long after this package was installed in its place.
	places := strings.NewReplacer("/usr/local/bin/", "/usr/bin/", "/etc/caddy/", "/etc/ballast/", "/var/lib/caddy", "/var/lib/ballast",
		"LogsDirectory=caddy", "LogsDirectory=ballast",
		"StateDirectory=caddy", "StateDirectory=ballast\nEnvironment=XDG_DATA_HOME=/var/lib/ballast XDG_CONFIG_HOME=/var/lib/ballast/config")
	for _, e := range all {
		text, err := os.ReadFile(e.from)
		if err != nil {
			return err
		}
		if strings.Contains(e.to, "/systemd/") {
			text = []byte(places.Replace(string(text)))
		}
		if err := put(root, e.to, text, e.permissions()); err != nil {
			return err
		}
	}
	settings, err := os.ReadFile("deploy/debian/nfpm.yaml")
	if err != nil {
		return err
	}
	values := map[string]string{
		"ARCH": machine, "VERSION": r.number(), "MADE": r.made.Format(time.RFC3339), "ROOT": filepath.ToSlash(root),
	}
	config := filepath.Join(r.work, "nfpm_"+machine+".yaml")
	if err := os.WriteFile(config, []byte(os.Expand(string(settings), func(name string) string { return values[name] })), 0o644); err != nil {
		return err
	}
	file := filepath.Join(r.output, fmt.Sprintf("ballast_%s_%s.deb", debianVersion(r.number()), machine))
	return tool("nfpm", "package", "--config", config, "--packager", "deb", "--target", file)
}

// debianVersion returns the version with ~ before rc, so that Debian sorts a release candidate before the release.
func debianVersion(number string) string { return strings.Replace(number, "-", "~", 1) }

// put writes a file below root, compressed if its name ends in .gz.
func put(root, name string, text []byte, mode os.FileMode) error {
	file := filepath.Join(root, name)
	for folder := filepath.Dir(file); ; folder = filepath.Dir(folder) {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return err
		}
		if err := os.Chmod(folder, 0o755); err != nil { // independent of the umask
			return err
		}
		if folder == root {
			break
		}
	}
	err := create(file, func(w io.Writer) error {
		if !strings.HasSuffix(name, ".gz") {
			_, err := w.Write(text)
			return err
		}
		packed, err := gzip.NewWriterLevel(w, gzip.BestCompression)
		if err != nil {
			return err
		}
		if _, err := packed.Write(text); err != nil {
			return err
		}
		return packed.Close()
	})
	if err != nil {
		return err
	}
	return os.Chmod(file, mode)
}
