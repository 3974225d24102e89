//go:build linux

package integration

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// TestRelease makes the release of this platform twice: here, and from a copy of the tree, by somebody with another umask and time zone.
// Both have the same bytes, and all that a release is to have.
func TestRelease(t *testing.T) {
	first, second := t.TempDir(), t.TempDir()
	makeRelease(t, "..", "022", "UTC", first)
	elsewhere := t.TempDir()
	files := strings.Split(strings.TrimSuffix(printed(t, "git", "-C", "..", "ls-files", "-z", "--cached", "--others", "--exclude-standard"), "\x00"), "\x00")
	for _, file := range files {
		copyFile(t, filepath.Join("..", file), filepath.Join(elsewhere, file))
	}
	makeRelease(t, elsewhere, "077", "Asia/Tokyo", second)

	sums := read(t, filepath.Join(first, "SHA256SUMS"))
	if other := read(t, filepath.Join(second, "SHA256SUMS")); other != sums {
		t.Errorf("made twice, the files are\n%sand\n%s", sums, other)
	}
	name := "ballast_0.1.0_linux_" + runtime.GOARCH
	debian := "ballast_0.1.0_" + runtime.GOARCH + ".deb"
	want := []string{debian, name + ".cdx.json", name + ".tar.gz", "ballast_0.1.0_oci.tar"}
	var listed []string
	for line := range strings.Lines(sums) {
		sum, file, _ := strings.Cut(strings.TrimSpace(line), "  ")
		listed = append(listed, file)
		if got := fmt.Sprintf("%x", sha256.Sum256([]byte(read(t, filepath.Join(first, file))))); got != sum {
			t.Errorf("the sum of %s is %s, SHA256SUMS says %s", file, got, sum)
		}
	}
	check := exec.CommandContext(t.Context(), "sha256sum", "--check", "--ignore-missing", "SHA256SUMS")
	check.Dir = first
	if out, err := check.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if !slices.Equal(listed, want) {
		t.Errorf("SHA256SUMS has %q, want %q", listed, want)
	}
	t.Run("archive", func(t *testing.T) { checkArchive(t, filepath.Join(first, name+".tar.gz"), name) })
	t.Run("bill", func(t *testing.T) { checkBill(t, filepath.Join(first, name+".cdx.json")) })
	t.Run("package", func(t *testing.T) { checkPackage(t, filepath.Join(first, debian)) })
	t.Run("image", func(t *testing.T) { checkImage(t, filepath.Join(first, "ballast_0.1.0_oci.tar")) })
	t.Run("install", func(t *testing.T) { checkInstall(t, filepath.Join(first, debian)) })
}

func makeRelease(t *testing.T, tree, umask, zone, output string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-c", `umask "$0" && exec go run ./deploy/release "$@"`, umask,
		"-version", "v0.1.0", "-platforms", "linux/"+runtime.GOARCH, "-output", output)
	cmd.Dir = tree
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=1700000000", "TZ="+zone)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// printed returns what a command prints.
func printed(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			out = append(out, exit.Stderr...)
		}
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return string(out)
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	info, err := os.Stat(from)
	if errors.Is(err, os.ErrNotExist) { // git knows it still
		return
	}
	if err == nil {
		err = os.MkdirAll(filepath.Dir(to), 0o755)
	}
	if err == nil {
		err = os.WriteFile(to, []byte(read(t, from)), info.Mode())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// unpack unpacks a .tar.gz and returns the folder and the names of the files in it.
func unpack(t *testing.T, archive string) (folder string, names []string) {
	t.Helper()
	folder = t.TempDir()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	unzipped, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	for packed := tar.NewReader(unzipped); ; {
		header, err := packed.Next()
		if errors.Is(err, io.EOF) {
			return folder, names
		}
		if err != nil {
			t.Fatal(err)
		}
		if header.Uid != 0 || header.Gid != 0 || header.ModTime.Unix() != 1700000000 {
			t.Errorf("%s belongs to %d:%d and is of %v", header.Name, header.Uid, header.Gid, header.ModTime)
		}
		names = append(names, header.Name)
		file := filepath.Join(folder, filepath.FromSlash(header.Name))
		text, err := io.ReadAll(packed)
		if err == nil {
			err = os.MkdirAll(filepath.Dir(file), 0o755)
		}
		if err == nil {
			err = os.WriteFile(file, text, header.FileInfo().Mode())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func checkArchive(t *testing.T, archive, name string) {
	folder, names := unpack(t, archive)
	for _, file := range []string{
		"CHANGELOG.md", "Caddyfile.example", "LICENSE", "README.md", "caddy", "completions/caddy.bash", "completions/caddy.fish", "completions/caddy.zsh",
		"man/man8/caddy.8", "man/man8/caddy-lb-drain.8", "systemd/ballast.service", "systemd/ballast.socket",
	} {
		if !slices.Contains(names, name+"/"+file) {
			t.Errorf("%s is not in the archive", file)
		}
	}
	program := filepath.Join(folder, name, "caddy")
	version := printed(t, program, "version")
	if !regexp.MustCompile(`^v[0-9.]+\+ballast\.0\.1\.0 `).MatchString(version) {
		t.Errorf("the program is %s", version)
	}
	if version := printed(t, program, "lb", "version"); !strings.HasPrefix(version, "Ballast v0.1.0\n") {
		t.Errorf("caddy lb version prints %s", version)
	}
	if modules := printed(t, program, "list-modules"); !strings.Contains(modules, "http.handlers.load_balancer\n") {
		t.Errorf("the program has the modules\n%s", modules)
	}
	if built := printed(t, "go", "version", "-m", program); !strings.Contains(built, "-pgo=") || !strings.Contains(built, "CGO_ENABLED=0") ||
		!strings.Contains(built, "-trimpath=true") || strings.Contains(built, "vcs.") {
		t.Errorf("it was built with\n%s", built)
	}
}

// checkBill checks that the SBOM is of this program.
func checkBill(t *testing.T, file string) {
	var bill struct {
		BomFormat string
		Metadata  struct {
			Component struct{ Name, Version string }
		}
		Components []struct{ Name, Version string }
	}
	if err := json.Unmarshal([]byte(read(t, file)), &bill); err != nil {
		t.Fatal(err)
	}
	if got := bill.Metadata.Component; bill.BomFormat != "CycloneDX" || got.Name != "github.com/ballastlb/ballast" || got.Version != "v0.1.0" {
		t.Errorf("a bill in %q of %+v", bill.BomFormat, got)
	}
	for _, module := range []string{"github.com/caddyserver/caddy/v2", "github.com/redis/go-redis/v9", "std"} {
		if !slices.ContainsFunc(bill.Components, func(c struct{ Name, Version string }) bool { return c.Name == module && c.Version != "" }) {
			t.Errorf("the bill does not name %s", module)
		}
	}
}

// checkPackage checks what is in the Debian package, and that its units name files that it has.
func checkPackage(t *testing.T, debian string) {
	root := filepath.Join(t.TempDir(), "root")
	printed(t, "dpkg-deb", "--extract", debian, root)
	control := filepath.Join(t.TempDir(), "control")
	printed(t, "dpkg-deb", "--control", debian, control)
	if got := read(t, filepath.Join(control, "conffiles")); strings.TrimSpace(got) != "/etc/ballast/Caddyfile" {
		t.Errorf("files that administrators edit: %q", got)
	}
	for _, script := range []string{"postinst", "prerm", "postrm"} {
		printed(t, "sh", "-n", filepath.Join(control, script))
	}
	for _, field := range []string{"Version: 0.1.0", "Conflicts: caddy", "Provides: caddy, httpd", "Architecture: " + runtime.GOARCH} {
		if got := read(t, filepath.Join(control, "control")); !strings.Contains(got, field+"\n") {
			t.Errorf("the package does not say %s:\n%s", field, got)
		}
	}
	unit := read(t, filepath.Join(root, "usr/lib/systemd/system/ballast.service"))
	for _, folder := range []string{"StateDirectory=ballast\n", "LogsDirectory=ballast\n", "XDG_DATA_HOME=/var/lib/ballast "} {
		if !strings.Contains(unit, folder) {
			t.Errorf("the unit shares folders with the package of Caddy, which deletes them: it does not say %s%s", folder, unit)
		}
	}
	named := regexp.MustCompile(`(?m)^Exec\w+=(/\S+) .*--config (/\S+)`).FindAllStringSubmatch(unit, -1)
	if len(named) != 2 {
		t.Errorf("the unit starts and reloads %d times:\n%s", len(named), unit)
	}
	for _, match := range named {
		for _, file := range match[1:] {
			if _, err := os.Stat(filepath.Join(root, file)); err != nil {
				t.Errorf("the unit names a file that is not in the package: %v", err)
			}
		}
	}
	if out, err := runCaddy(t, read(t, filepath.Join(root, "etc/ballast/Caddyfile")), "validate"); err != nil {
		t.Errorf("the config of the package: %v\n%s", err, out)
	}
	if _, err := exec.LookPath("systemd-analyze"); err == nil {
		// Whoever runs this need not have installed it.
		out, err := exec.CommandContext(t.Context(), "systemd-analyze", "verify", "--root", root, "ballast.service", "ballast.socket").CombinedOutput()
		if text := string(out); strings.Contains(text, "Unknown") || strings.Contains(text, "ignoring") {
			t.Errorf("systemd complains: %v\n%s", err, text)
		}
	}
}

// checkInstall installs the package, has it replaced, and removes it, on a layer above this system that is gone afterwards.
func checkInstall(t *testing.T, debian string) {
	if os.Getuid() != 0 {
		t.Log("only root can install packages; that they unpack was checked")
		return
	}
	debian, err := filepath.Abs(debian)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "unshare", "--mount", "sh", "-ec", `
		mount -t tmpfs tmpfs "$1"
		mkdir "$1/upper" "$1/work" "$1/root"
		mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
		cp "$0" "$1/root/ballast.deb"
		exec chroot "$1/root" sh -exc '
			gone() { if ls -d "$@"; then exit 1; fi; }
			dpkg --force-depends -i /ballast.deb
			getent passwd caddy
			caddy version
			gone /etc/systemd/system/*.wants/ballast.service
			echo "# mine" >>/etc/ballast/Caddyfile
			mkdir -p /var/lib/ballast/caddy /var/lib/caddy
			dpkg --force-depends -i /ballast.deb
			grep "# mine" /etc/ballast/Caddyfile
			dpkg -r ballast
			gone /usr/bin/caddy
			grep "# mine" /etc/ballast/Caddyfile
			test -e /var/lib/ballast/caddy
			dpkg -P ballast
			gone /etc/ballast
			gone /var/lib/ballast
			test -e /var/lib/caddy
			gone /etc/systemd/system/ballast.service
			getent passwd caddy
		'`, debian, t.TempDir()).CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
