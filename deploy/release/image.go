package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// image is an OCI image for Linux on one or more architectures, as a layout in a .tar, which `skopeo copy oci-archive:`, `podman load` and
// `docker load` read. It has one layer and is built without an engine. Its configuration is that of deploy/Dockerfile.
type image struct {
	blobs     []blob
	manifests []descriptor
}

type blob struct {
	descriptor
	text []byte
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Platform    map[string]string `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

func digest(text []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(text)) }

func (i *image) add(kind string, text []byte) descriptor {
	d := descriptor{MediaType: "application/vnd.oci.image." + kind, Digest: digest(text), Size: len(text)}
	i.blobs = append(i.blobs, blob{d, text})
	return d
}

func (i *image) addJSON(kind string, value any) (descriptor, error) {
	text, err := json.Marshal(value)
	return i.add(kind, text), err
}

// addPlatform adds the image for an architecture.
func (i *image) addPlatform(r *release, machine, program string) error {
	dockerfile, err := os.ReadFile("deploy/Dockerfile")
	if err != nil {
		return err
	}
	run, err := parseRun(string(dockerfile))
	if err != nil {
		return err
	}
	layer, err := writeLayer(program, run, r.made)
	if err != nil {
		return err
	}
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	if _, err := w.Write(layer); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	labels := map[string]string{
		"org.opencontainers.image.title": "ballast", "org.opencontainers.image.version": r.number(), "org.opencontainers.image.licenses": "Apache-2.0",
		"org.opencontainers.image.source": "https://github.com/ballastlb/ballast",
	}
	config, err := i.addJSON("config.v1+json", map[string]any{
		"created": r.made.Format(time.RFC3339), "architecture": machine, "os": "linux", "config": run.config(labels),
		"rootfs":  map[string]any{"type": "layers", "diff_ids": []string{digest(layer)}},
		"history": []map[string]any{{"created": r.made.Format(time.RFC3339), "created_by": "make image"}},
	})
	if err != nil {
		return err
	}
	manifest, err := i.addJSON("manifest.v1+json", map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": []descriptor{i.add("layer.v1.tar+gzip", packed.Bytes())},
	})
	if err != nil {
		return err
	}
	manifest.Platform = map[string]string{"architecture": machine, "os": "linux"}
	i.manifests = append(i.manifests, manifest)
	return nil
}

// write writes the layout. It names one image only; the reader selects the one for its architecture.
func (i *image) write(file, version string, made time.Time) error {
	named := i.manifests
	if len(named) > 1 {
		index, err := i.addJSON("index.v1+json", map[string]any{
			"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": i.manifests,
		})
		if err != nil {
			return err
		}
		named = []descriptor{index}
	}
	named[0].Annotations = map[string]string{"org.opencontainers.image.ref.name": version}
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": named})
	if err != nil {
		return err
	}
	return create(file, func(w io.Writer) error {
		archive := tar.NewWriter(w)
		for _, f := range append([]blob{
			{descriptor{Digest: "oci-layout"}, []byte(`{"imageLayoutVersion":"1.0.0"}`)}, {descriptor{Digest: "index.json"}, index},
		}, i.blobs...) {
			name := f.Digest
			if algorithm, sum, ok := strings.Cut(f.Digest, ":"); ok {
				name = "blobs/" + algorithm + "/" + sum
			}
			if err := archive.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(f.text)), ModTime: made, Format: tar.FormatUSTAR}); err != nil {
				return err
			}
			if _, err := archive.Write(f.text); err != nil {
				return err
			}
		}
		return archive.Close()
	})
}

// writeLayer returns the layer with the files of the image. The image's user owns the folders that it may write to.
func writeLayer(program string, run runs, made time.Time) ([]byte, error) {
	user, group, err := run.ids()
	if err != nil {
		return nil, err
	}
	var layer bytes.Buffer
	archive := tar.NewWriter(&layer)
	put := func(name string, mode int64, user, group int, text []byte) error {
		header := &tar.Header{Name: name, Mode: mode, Uid: user, Gid: group, Size: int64(len(text)), ModTime: made, Format: tar.FormatUSTAR}
		if strings.HasSuffix(name, "/") {
			header.Typeflag = tar.TypeDir
		}
		err := archive.WriteHeader(header)
		if err == nil {
			_, err = archive.Write(text)
		}
		return err
	}
	for _, folder := range []string{"etc/", "etc/caddy/", "usr/", "usr/bin/"} {
		err = errors.Join(err, put(folder, 0o755, 0, 0, nil))
	}
	for _, volume := range run.volumes {
		err = errors.Join(err, put(strings.Trim(volume, "/")+"/", 0o755, user, group, nil))
	}
	if err != nil {
		return nil, err
	}
	for _, e := range []entry{{from: "deploy/container/Caddyfile", to: "etc/caddy/Caddyfile"}, {from: program, to: "usr/bin/caddy", mode: 0o755}} {
		text, err := os.ReadFile(filepath.FromSlash(e.from))
		if err != nil {
			return nil, err
		}
		if err := put(e.to, int64(e.permissions()), 0, 0, text); err != nil {
			return nil, err
		}
	}
	return layer.Bytes(), archive.Close()
}

// runs is the configuration with which the image is started.
type runs struct {
	env, ports, volumes, entrypoint, cmd []string
	user                                 string
}

// parseRun parses the last stage of a Dockerfile. It understands only the instructions in ours.
func parseRun(dockerfile string) (r runs, err error) {
	_, stage, ok := strings.Cut(dockerfile, "\nFROM scratch\n")
	if !ok {
		return r, errors.New("deploy/Dockerfile has no stage FROM scratch")
	}
	for line := range strings.Lines(stage) {
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch word {
		case "", "#", "COPY": // writeLayer lists the copied files
		case "ENV":
			r.env = append(r.env, strings.Fields(rest)...)
		case "USER":
			r.user = rest
		case "EXPOSE":
			r.ports = append(r.ports, strings.Fields(rest)...)
		case "VOLUME":
			r.volumes = append(r.volumes, strings.Fields(rest)...)
		case "ENTRYPOINT":
			err = json.Unmarshal([]byte(rest), &r.entrypoint)
		case "CMD":
			err = json.Unmarshal([]byte(rest), &r.cmd)
		default:
			err = errors.New("unknown instruction")
		}
		if err != nil {
			return r, fmt.Errorf("deploy/Dockerfile: %s: %w", strings.TrimSpace(line), err)
		}
	}
	return r, nil
}

func (r runs) ids() (user, group int, err error) {
	first, second, _ := strings.Cut(r.user, ":")
	user, err = strconv.Atoi(first)
	if err == nil {
		group, err = strconv.Atoi(second)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("deploy/Dockerfile: USER %s: must be numbers, because the image has no list of users", r.user)
	}
	return user, group, nil
}

// config returns the same in OCI's format.
func (r runs) config(labels map[string]string) map[string]any {
	ports, volumes := map[string]struct{}{}, map[string]struct{}{}
	for _, port := range r.ports {
		if !strings.Contains(port, "/") {
			port += "/tcp"
		}
		ports[port] = struct{}{}
	}
	for _, volume := range r.volumes {
		volumes[volume] = struct{}{}
	}
	return map[string]any{
		"User": r.user, "Env": r.env, "ExposedPorts": ports, "Volumes": volumes, "Entrypoint": r.entrypoint, "Cmd": r.cmd, "WorkingDir": "/", "Labels": labels,
	}
}
