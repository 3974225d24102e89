// Command release makes the files of a release: an archive for each platform, Debian packages, an image, an SBOM for each program, and the
// checksums of all files. The build is reproducible: the same sources and version of Go give the same bytes in any folder; docs/releases.md
// describes the files. It runs in the root of the tree.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"
)

func main() {
	var r release
	var platforms string
	flag.BoolVar(&r.onlyImage, "image", false, "make the image and nothing else")
	flag.StringVar(&r.version, "version", "", "the version, such as v0.1.0; CHANGELOG.md must have a section for it")
	flag.StringVar(&platforms, "platforms", "linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 freebsd/amd64", "the platforms to build for")
	flag.StringVar(&r.output, "output", "dist", "folder for the files; must be empty or not exist")
	flag.Parse()
	if err := r.make(strings.Fields(platforms)); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

type release struct {
	version, output string
	onlyImage       bool

	image image
	made  time.Time // modification time of all files
	work  string    // folder for temporary files
}

var versions = regexp.MustCompile(`^v(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?$`)

func (r *release) make(platforms []string) (err error) {
	if err := r.check(); err != nil {
		return err
	}
	if r.work, err = os.MkdirTemp("", "ballast-release"); err != nil {
		return err
	}
	defer os.RemoveAll(r.work)
	if err := os.MkdirAll(r.output, 0o755); err != nil {
		return err
	}
	var common []entry
	if !r.onlyImage {
		if common, err = r.common(); err != nil {
			return err
		}
	}
	for _, platform := range platforms {
		system, machine, ok := strings.Cut(platform, "/")
		if !ok {
			return fmt.Errorf("platform %q: must be a system and an architecture, such as linux/amd64", platform)
		}
		start := time.Now()
		if err := r.platform(system, machine, common); err != nil {
			return fmt.Errorf("%s: %w", platform, err)
		}
		fmt.Printf("%s took %v\n", platform, time.Since(start).Round(time.Second))
	}
	if len(r.image.manifests) > 0 {
		if err := r.image.write(filepath.Join(r.output, "ballast_"+r.number()+"_oci.tar"), r.number(), r.made); err != nil {
			return err
		}
	}
	return writeSums(r.output)
}

// check checks the options and the tree before anything is built, and determines the time of all files.
func (r *release) check() error {
	if !versions.MatchString(r.version) {
		return fmt.Errorf("version %q: must be such as v0.1.0 or v0.1.0-rc.1", r.version)
	}
	changes, err := os.ReadFile("CHANGELOG.md")
	if err != nil {
		return err
	}
	final, _, _ := strings.Cut(r.number(), "-")
	if !bytes.Contains(changes, []byte("\n## ["+final+"]")) {
		return fmt.Errorf("CHANGELOG.md has no section for %s", final)
	}
	if there, err := os.ReadDir(r.output); err == nil && len(there) > 0 {
		return fmt.Errorf("%s is not empty", r.output)
	}
	epoch := os.Getenv("SOURCE_DATE_EPOCH")
	if epoch == "" {
		changed, err := output("git", "status", "--porcelain")
		if err != nil {
			return errors.New("no commit to take the time from; set SOURCE_DATE_EPOCH")
		}
		if len(changed) > 0 {
			return fmt.Errorf("uncommitted changes; commit them, or set SOURCE_DATE_EPOCH:\n%s", changed)
		}
		stamp, err := output("git", "log", "-1", "--format=%ct")
		if err != nil {
			return err
		}
		epoch = string(bytes.TrimSpace(stamp))
	}
	seconds, err := strconv.ParseInt(epoch, 10, 64)
	if err != nil {
		return fmt.Errorf("SOURCE_DATE_EPOCH %q: must be seconds since 1970", epoch)
	}
	r.made = time.Unix(seconds, 0).UTC()
	// All programs that are run use it, in the same time zone everywhere: the manual pages contain the date.
	return errors.Join(os.Setenv("SOURCE_DATE_EPOCH", epoch), os.Setenv("TZ", "UTC"))
}

// number returns the version without its v, as in file names and in Debian.
func (r *release) number() string { return strings.TrimPrefix(r.version, "v") }

// build compiles the program for a platform and returns its path. It uses the flags of xcaddy and of Caddy's releases, and the profile in
// cmd/caddy. Paths and VCS data are left out, so that the result depends on the sources only.
func (r *release) build(system, machine string) (string, error) {
	caddy, err := output("go", "list", "-m", "-f", "{{.Version}}", "github.com/caddyserver/caddy/v2")
	if err != nil {
		return "", err
	}
	program := filepath.Join(r.work, system+"_"+machine, "caddy")
	if system == "windows" {
		program += ".exe"
	}
	if _, err := os.Stat(program); err == nil { // it was built for the manual pages already
		return program, nil
	}
	stamps := "-s -w" +
		" -X github.com/ballastlb/ballast/command.Version=" + r.version +
		" -X github.com/caddyserver/caddy/v2.CustomVersion=" + string(bytes.TrimSpace(caddy)) + "+ballast." + r.number()
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-tags", "nobadger,nomysql,nopgx", "-ldflags", stamps, "-o", program, "./cmd/caddy")
	cmd.Env = append(os.Environ(), "GOOS="+system, "GOARCH="+machine, "CGO_ENABLED=0", "GOFLAGS=", "GOAMD64=v1", "GOARM64=v8.0", "GOWORK=off")
	cmd.Stderr = os.Stderr
	return program, cmd.Run()
}

// common returns the files that the archives of all platforms contain.
func (r *release) common() ([]entry, error) {
	native, err := r.build(runtime.GOOS, runtime.GOARCH)
	if err != nil {
		return nil, err
	}
	all := []entry{
		{from: "CHANGELOG.md", to: "CHANGELOG.md"}, {from: "Caddyfile.example", to: "Caddyfile.example"}, {from: "LICENSE", to: "LICENSE"},
		{from: "README.md", to: "README.md"},
	}
	manual := filepath.Join(r.work, "man8")
	if _, err := output(native, "manpage", "-o", manual); err != nil {
		return nil, err
	}
	pages, err := os.ReadDir(manual)
	if err != nil {
		return nil, err
	}
	for _, page := range pages {
		all = append(all, entry{from: filepath.Join(manual, page.Name()), to: "man/man8/" + page.Name()})
	}
	for _, shell := range []string{"bash", "fish", "powershell", "zsh"} {
		script, err := output(native, "completion", shell)
		if err != nil {
			return nil, err
		}
		file := filepath.Join(r.work, "caddy."+shell)
		if err := os.WriteFile(file, script, 0o644); err != nil {
			return nil, err
		}
		all = append(all, entry{from: file, to: "completions/caddy." + shell})
	}
	return all, nil
}

// platform makes the files for one platform.
func (r *release) platform(system, machine string, common []entry) error {
	program, err := r.build(system, machine)
	if err != nil {
		return err
	}
	if system == "linux" {
		if err := r.image.addPlatform(r, machine, program); err != nil {
			return err
		}
	}
	if r.onlyImage {
		return nil
	}
	name := fmt.Sprintf("ballast_%s_%s_%s", r.number(), system, machine)
	all := append([]entry{{from: program, to: filepath.Base(program), mode: 0o755}}, common...)
	if system == "linux" {
		for _, unit := range []string{"ballast.service", "ballast.socket"} {
			all = append(all, entry{from: filepath.Join("deploy/systemd", unit), to: "systemd/" + unit})
		}
	}
	write := writeTar
	file := filepath.Join(r.output, name+".tar.gz")
	if system == "windows" {
		write, file = writeZip, filepath.Join(r.output, name+".zip")
	}
	if err := write(file, name, all, r.made); err != nil {
		return err
	}
	if err := tool("cyclonedx-gomod", "bin", "-json", "-std", "-noserial", "-notimestamp", "-version", r.version, "-output", filepath.Join(r.output, name+".cdx.json"), program); err != nil {
		return err
	}
	if system != "linux" {
		return nil
	}
	return r.debian(machine, program, common)
}

// tool runs a tool that only releases need. The SBOM contains the checksum of the tool that made it, so the tool is built without paths.
func tool(name string, args ...string) error {
	cmd := exec.Command("go", append([]string{"tool", "-modfile=tools/release/go.mod", name}, args...)...)
	cmd.Env = append(os.Environ(), "GOFLAGS=-trimpath", "GOWORK=off")
	_, err := outputOf(cmd)
	return err
}

// output runs a command and returns its standard output. Its standard error is in the error.
func output(name string, args ...string) ([]byte, error) {
	return outputOf(exec.Command(name, args...))
}

func outputOf(cmd *exec.Cmd) ([]byte, error) {
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s%s", strings.Join(cmd.Args, " "), err, out, complaints.Bytes())
	}
	return out, nil
}
