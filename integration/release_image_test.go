//go:build linux

package integration

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// checkImage reads the image as an engine does, and starts what is in it, with nothing else in its file system.
func checkImage(t *testing.T, file string) {
	layout := map[string][]byte{}
	eachInTar(t, read(t, file), func(header *tar.Header, text []byte) { layout[header.Name] = text })
	type descriptor struct {
		MediaType, Digest string
		Size              int
	}
	blob := func(d descriptor) []byte {
		algorithm, sum, _ := strings.Cut(d.Digest, ":")
		text := layout["blobs/"+algorithm+"/"+sum]
		if got := fmt.Sprintf("%x", sha256.Sum256(text)); got != sum || len(text) != d.Size {
			t.Fatalf("blob %s has the sum %s and %d bytes, want %d", d.Digest, got, len(text), d.Size)
		}
		return text
	}
	decode := func(text []byte, value any) {
		if err := json.Unmarshal(text, value); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
	}
	var index struct{ Manifests []descriptor }
	decode(layout["index.json"], &index)
	if len(index.Manifests) != 1 {
		t.Fatalf("the layout has %d images, want 1", len(index.Manifests))
	}
	var manifest struct {
		Config descriptor
		Layers []descriptor
	}
	decode(blob(index.Manifests[0]), &manifest)
	var config struct {
		Architecture string
		Config       struct {
			User                  string
			Env, Entrypoint, Cmd  []string
			ExposedPorts, Volumes map[string]struct{}
		}
		Rootfs struct {
			DiffIDs []string `json:"diff_ids"`
		}
	}
	decode(blob(manifest.Config), &config)
	run := config.Config
	if _, data := run.Volumes["/data"]; config.Architecture != runtime.GOARCH || run.User != "65532:65532" || !data || len(run.ExposedPorts) != 4 || len(manifest.Layers) != 1 {
		t.Fatalf("the image is %+v, with %d layers", config, len(manifest.Layers))
	}

	unzipped, err := gzip.NewReader(bytes.NewReader(blob(manifest.Layers[0])))
	if err != nil {
		t.Fatal(err)
	}
	layer, err := io.ReadAll(unzipped)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprintf("sha256:%x", sha256.Sum256(layer)); !slices.Equal(config.Rootfs.DiffIDs, []string{got}) {
		t.Errorf("the layer is %s, the image says %q", got, config.Rootfs.DiffIDs)
	}
	root := t.TempDir()
	eachInTar(t, string(layer), func(header *tar.Header, text []byte) {
		name := filepath.Join(root, header.Name)
		if header.Typeflag == tar.TypeDir {
			err = os.Mkdir(name, header.FileInfo().Mode())
		} else {
			err = os.WriteFile(name, text, header.FileInfo().Mode())
		}
		if err == nil && os.Getuid() == 0 {
			err = os.Chown(name, header.Uid, header.Gid)
		}
		if err != nil {
			t.Fatal(err)
		}
	})
	// Whoever is not root looks at the same from a namespace of their own, in which they can have the user's number and no other.
	attributes := &syscall.SysProcAttr{Chroot: root, Credential: &syscall.Credential{Uid: 65532, Gid: 65532}}
	if os.Getuid() != 0 {
		attributes.Cloneflags = syscall.CLONE_NEWUSER
		attributes.UidMappings = []syscall.SysProcIDMap{{ContainerID: 65532, HostID: os.Getuid(), Size: 1}}
		attributes.GidMappings = []syscall.SysProcIDMap{{ContainerID: 65532, HostID: os.Getgid(), Size: 1}}
		attributes.Credential.NoSetGroups = true
	}
	site := freeAddress(t)
	cmd := exec.Command(run.Entrypoint[0], append(run.Entrypoint[1:], run.Cmd...)...)
	cmd.Dir = "/"
	cmd.Env = append(slices.Clone(run.Env), "SITE=http://"+site, "BACKENDS="+startBackend(t).addr, "BALLAST_ADMIN="+freeAddress(t))
	cmd.SysProcAttr = attributes
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	answers := func(path string) bool {
		res, err := http.Get("http://" + site + path)
		if err != nil {
			return false
		}
		defer res.Body.Close()
		return res.StatusCode == http.StatusOK
	}
	deadline := time.Now().Add(20 * time.Second)
	for !answers("/ready") || !answers("/") {
		if time.Now().After(deadline) {
			t.Error("the image does not serve")
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err = <-ended:
	case <-time.After(20 * time.Second):
		_ = cmd.Process.Kill()
		err = errors.Join(errors.New("it does not stop"), <-ended)
	}
	if err != nil || t.Failed() {
		t.Fatalf("%v\n%s", err, log.String())
	}
	// Caddy keeps the last config where the volume is.
	if _, err := os.Stat(filepath.Join(root, "config/caddy/autosave.json")); err != nil {
		t.Errorf("it cannot write to its volume: %v\n%s", err, log.String())
	}
}

func eachInTar(t *testing.T, archive string, do func(header *tar.Header, text []byte)) {
	t.Helper()
	for in := tar.NewReader(strings.NewReader(archive)); ; {
		header, err := in.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		var text []byte
		if err == nil {
			text, err = io.ReadAll(in)
		}
		if err != nil {
			t.Fatal(err)
		}
		do(header, text)
	}
}
