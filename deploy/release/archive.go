package main

import (
	"archive/tar"
	"archive/zip"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// entry is a file of an archive.
type entry struct {
	from, to string
	mode     os.FileMode // 0 means 0644
}

func (e entry) permissions() os.FileMode {
	if e.mode == 0 {
		return 0o644
	}
	return e.mode
}

func sorted(all []entry) []entry {
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b entry) int { return strings.Compare(a.to, b.to) })
	return all
}

// writeTar writes the files to a .tar.gz, below folder. They belong to root and have the same time.
func writeTar(file, folder string, all []entry, made time.Time) error {
	return create(file, func(w io.Writer) error {
		packed := gzip.NewWriter(w) // without a name and a time
		archive := tar.NewWriter(packed)
		for _, e := range sorted(all) {
			text, err := os.ReadFile(e.from)
			if err != nil {
				return err
			}
			header := &tar.Header{
				Name: folder + "/" + e.to, Mode: int64(e.permissions()), Size: int64(len(text)), ModTime: made, Uname: "root", Gname: "root", Format: tar.FormatUSTAR,
			}
			if err := archive.WriteHeader(header); err != nil {
				return err
			}
			if _, err := archive.Write(text); err != nil {
				return err
			}
		}
		return errors.Join(archive.Close(), packed.Close())
	})
}

// writeZip does the same for a .zip.
func writeZip(file, folder string, all []entry, made time.Time) error {
	return create(file, func(w io.Writer) error {
		archive := zip.NewWriter(w)
		for _, e := range sorted(all) {
			text, err := os.ReadFile(e.from)
			if err != nil {
				return err
			}
			header := &zip.FileHeader{Name: folder + "/" + e.to, Method: zip.Deflate, Modified: made}
			header.SetMode(e.permissions())
			in, err := archive.CreateHeader(header)
			if err != nil {
				return err
			}
			if _, err := in.Write(text); err != nil {
				return err
			}
		}
		return archive.Close()
	})
}

func create(file string, write func(io.Writer) error) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}

// writeSums writes SHA256SUMS of all files in the folder, in the format of sha256sum --check.
func writeSums(folder string) error {
	files, err := os.ReadDir(folder) // sorted by name
	if err != nil {
		return err
	}
	var sums strings.Builder
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join(folder, f.Name()))
		if err != nil {
			return err
		}
		fmt.Fprintf(&sums, "%x  %s\n", sha256.Sum256(text), f.Name())
	}
	return os.WriteFile(filepath.Join(folder, "SHA256SUMS"), []byte(sums.String()), 0o644)
}
