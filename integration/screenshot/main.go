//go:build unix

// Command screenshot makes the pictures of the dashboard in README.md and docs/dashboard.md: of the demo of `make run`, under load, with one
// backend that fails its checks. It needs Chromium, and is run at the root of the tree.
package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"

	"github.com/ballastlb/ballast/bench/openloop"
)

func main() {
	output := flag.String("output", "docs", "folder to write to")
	browser := flag.String("browser", "chromium", "the browser's command")
	first := flag.Int("port", 9201, "first of six free ports in a row")
	flag.Parse()
	if err := run(*output, *browser, *first); err != nil {
		fmt.Fprintln(os.Stderr, "screenshot:", err)
		os.Exit(1)
	}
}

// shown is for how long the dashboard is looked at, so that its curves have a past.
const shown = 45 * time.Second

// settled is for how long a view is shown before its picture is taken.
const settled = 7 * time.Second

func run(output, browser string, port int) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	address := func(n int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port+n)) }
	demo := exec.CommandContext(ctx, "go", "run", "./examples/run", "-listen", address(0), "-admin", address(1), "-backends", strconv.Itoa(port+2))
	demo.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // to end what it starts, too
	out, err := demo.StdoutPipe()
	if err != nil {
		return err
	}
	if err := demo.Start(); err != nil {
		return err
	}
	defer func() {
		_ = syscall.Kill(-demo.Process.Pid, syscall.SIGINT)
		_ = demo.Wait()
	}()
	page, login, err := findPage(out)
	if err != nil {
		return err
	}
	go func() {
		_, _ = openloop.Run(ctx, openloop.Options{URL: "http://" + address(0) + "/?delay=8ms", Method: "GET", Rate: 300, Duration: 3 * shown, Timeout: 5 * time.Second, Connections: 200})
	}()
	time.AfterFunc(shown/2, func() { _ = tell(ctx, address(2+1), `{"health":503}`) })
	return look(ctx, browser, page, login, func(name string, picture []byte) error {
		return os.WriteFile(filepath.Join(output, name+".png"), picture, 0o644)
	})
}

// views are the pictures after the first one, which is that of README.md.
var views = []struct {
	name, theme, part string // part of the page, behind #
	width, height     int64
}{
	{"dashboard-desk-dark", "dark", "", 1440, 810},
	{"dashboard-tablet-light", "light", "", 820, 1100},
	{"dashboard-tablet-dark", "dark", "", 820, 1100},
	{"dashboard-phone-light", "light", "", 390, 844},
	{"dashboard-phone-dark", "dark", "", 390, 844},
	{"dashboard-history", "light", "#pool=web", 1440, 1000},
}

// findPage reads what the demo prints until it says where the dashboard is.
func findPage(out io.Reader) (page, login string, err error) {
	found := regexp.MustCompile(`dashboard is at (\S+): user (\S+), password (\S+)`)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if match := found.FindStringSubmatch(lines.Text()); match != nil {
			go func() { _, _ = io.Copy(io.Discard, out) }()
			return match[1], match[2] + ":" + match[3], nil
		}
	}
	return "", "", errors.Join(errors.New("the demo does not run"), lines.Err())
}

// tell changes the settings of an example backend.
func tell(ctx context.Context, backend, settings string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPatch, "http://"+backend+"/_settings", strings.NewReader(settings))
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	return res.Body.Close()
}

// look opens the page and takes its pictures after a while.
func look(ctx context.Context, browser, page, login string, keep func(name string, picture []byte) error) error {
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(browser), chromedp.NoSandbox, chromedp.DisableGPU)
	ctx, stop := chromedp.NewExecAllocator(ctx, options...)
	defer stop()
	ctx, closeTab := chromedp.NewContext(ctx)
	defer closeTab()
	headers := network.SetExtraHTTPHeadersParams{Headers: map[string]any{"Authorization": "Basic " + base64.StdEncoding.EncodeToString([]byte(login))}}
	if _, err := chromedp.Call(ctx, network.SetExtraHTTPHeaders, headers); err != nil {
		return err
	}
	take := func(name string) error {
		picture, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
		if err != nil {
			return err
		}
		return keep(name, picture)
	}
	if err := chromedp.Do(ctx, chromedp.EmulateViewport(1440, 810), chromedp.Navigate(page), chromedp.Sleep(shown)); err != nil {
		return err
	}
	if err := take("dashboard"); err != nil {
		return err
	}
	for _, v := range views {
		media := emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: v.theme}}}
		if _, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, media); err != nil {
			return err
		}
		// Only the part behind # may differ from the page before, which would load nothing.
		if err := chromedp.Do(ctx, chromedp.EmulateViewport(v.width, v.height), chromedp.Navigate("about:blank"), chromedp.Navigate(page+v.part), chromedp.Sleep(settled)); err != nil {
			return err
		}
		if err := take(v.name); err != nil {
			return err
		}
	}
	return nil
}
