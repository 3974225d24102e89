// Package chromium has a Chromium without a window show a page. It speaks the browser's own protocol over a pair of pipes: no port is
// open, and no module is needed for it, which users of Ballast would inherit.
package chromium

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

// Tab is a page in a browser of its own.
type Tab struct {
	cmd     *exec.Cmd
	orders  *os.File
	problem func(string)
	ended   chan struct{} // closed when the browser says no more

	target, session string // set by Open, before anybody else has the tab

	mu      sync.Mutex
	last    int                    // number of the last call
	waiting map[int]chan<- message // for the answer to a call
	loaded  string                 // what was loaded last: the browser's name for it
	loads   chan struct{}          // closed when it changes
}

// message is an order to the browser, an answer, or an event.
type message struct {
	ID      int             `json:"id,omitempty"`
	Session string          `json:"sessionId,omitempty"`
	Method  string          `json:"method,omitempty"`
	Params  json.RawMessage `json:"params,omitempty"`
	Result  json.RawMessage `json:"result,omitempty"`
	Error   *struct {
		Message string `json:"message"`
	} `json:"error,omitempty"`
}

var errEnded = errors.New("the browser has ended")

// Open starts the program and opens an empty page. All that the browser writes goes into the folder. Whatever is wrong with a page, and its
// errors in the console, are given to problem; that a server cannot be reached is not among them.
func Open(ctx context.Context, program, folder string, problem func(string)) (*Tab, error) {
	theirOrders, orders, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer theirOrders.Close()
	answers, theirAnswers, err := os.Pipe()
	if err != nil {
		orders.Close()
		return nil, err
	}
	defer theirAnswers.Close()
	cmd := exec.Command(program, "--headless", "--remote-debugging-pipe", "--user-data-dir="+filepath.Join(folder, "profile"),
		"--no-sandbox", "--no-first-run", "--no-default-browser-check", "--disable-gpu", "--disable-dev-shm-usage", "--disable-breakpad",
		"--disable-background-networking", "--disable-component-update", "--disable-default-apps", "--disable-extensions", "--disable-sync",
		"--disable-background-timer-throttling", "--disable-backgrounding-occluded-windows", "--disable-renderer-backgrounding",
		"--force-color-profile=srgb", "--hide-scrollbars", "--mute-audio", "--password-store=basic", "about:blank")
	cmd.Env = append(os.Environ(), "TMPDIR="+folder)
	cmd.ExtraFiles = []*os.File{theirOrders, theirAnswers} // the browser expects them as 3 and 4
	if err := cmd.Start(); err != nil {
		orders.Close()
		answers.Close()
		return nil, err
	}
	t := &Tab{
		cmd: cmd, orders: orders, problem: problem, ended: make(chan struct{}), waiting: map[int]chan<- message{}, loads: make(chan struct{}),
	}
	go t.listen(answers)
	if err := t.begin(ctx); err != nil {
		t.Close()
		return nil, fmt.Errorf("%s: %w", program, err)
	}
	return t, nil
}

// begin opens the page, and asks for the events that listen knows.
func (t *Tab) begin(ctx context.Context) error {
	var created struct{ TargetID string }
	if err := t.Call(ctx, "Target.createTarget", map[string]any{"url": "about:blank"}, &created); err != nil {
		return err
	}
	var attached struct{ SessionID string }
	if err := t.Call(ctx, "Target.attachToTarget", map[string]any{"targetId": created.TargetID, "flatten": true}, &attached); err != nil {
		return err
	}
	t.mu.Lock()
	t.target, t.session = created.TargetID, attached.SessionID
	t.mu.Unlock()
	for _, domain := range []string{"Page", "Runtime", "Log", "Network"} {
		if err := t.Call(ctx, domain+".enable", nil, nil); err != nil {
			return err
		}
	}
	return t.Call(ctx, "Page.setLifecycleEventsEnabled", map[string]any{"enabled": true}, nil)
}

// Close ends the browser.
func (t *Tab) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_ = t.send(ctx, "", "Browser.close", nil, nil) // it may be gone before it answers
	t.orders.Close()
	select {
	case <-t.ended:
	case <-ctx.Done():
		_ = t.cmd.Process.Kill()
	}
	_ = t.cmd.Wait()
}

// Call calls a method of the protocol for the page. The result may be nil.
func (t *Tab) Call(ctx context.Context, method string, params map[string]any, result any) error {
	t.mu.Lock()
	session := t.session
	t.mu.Unlock()
	return t.send(ctx, session, method, params, result)
}

func (t *Tab) send(ctx context.Context, session, method string, params map[string]any, result any) error {
	encoded, err := json.Marshal(params)
	if err != nil {
		return err
	}
	if params == nil {
		encoded = nil
	}
	answer := make(chan message, 1)
	t.mu.Lock()
	t.last++
	id := t.last
	t.waiting[id] = answer
	order, err := json.Marshal(message{ID: id, Session: session, Method: method, Params: encoded})
	if err == nil {
		_, err = t.orders.Write(append(order, 0)) // one at a time
	}
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		delete(t.waiting, id)
		t.mu.Unlock()
	}()
	if err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	select {
	case m := <-answer:
		if m.Error != nil {
			return fmt.Errorf("%s: %s", method, m.Error.Message)
		}
		if result == nil {
			return nil
		}
		return json.Unmarshal(m.Result, result)
	case <-t.ended:
		return fmt.Errorf("%s: %w", method, errEnded)
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", method, ctx.Err())
	}
}

// listen takes answers and events until the browser ends.
func (t *Tab) listen(answers *os.File) {
	defer close(t.ended)
	defer answers.Close()
	in := bufio.NewReader(answers)
	for {
		text, err := in.ReadBytes(0)
		if err != nil {
			return
		}
		var m message
		if err := json.Unmarshal(text[:len(text)-1], &m); err != nil {
			t.problem("the browser does not speak JSON: " + err.Error())
			return
		}
		if m.ID == 0 {
			t.event(m)
			continue
		}
		t.mu.Lock()
		if answer := t.waiting[m.ID]; answer != nil {
			answer <- m // has room for it
			delete(t.waiting, m.ID)
		}
		t.mu.Unlock()
	}
}

// event takes what the browser tells by itself.
func (t *Tab) event(m message) {
	var e struct {
		FrameID, LoaderID, Name, Type string
		Args, ExceptionDetails        json.RawMessage
		Entry                         struct{ Source, Level, Text string }
	}
	switch m.Method {
	case "Page.lifecycleEvent", "Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded":
		if err := json.Unmarshal(m.Params, &e); err != nil {
			t.problem(m.Method + ": " + err.Error())
			return
		}
	}
	switch {
	case m.Method == "Page.lifecycleEvent" && e.Name == "load":
		t.mu.Lock()
		if e.FrameID == t.target {
			t.loaded = e.LoaderID
			close(t.loads)
			t.loads = make(chan struct{})
		}
		t.mu.Unlock()
	case m.Method == "Runtime.consoleAPICalled" && (e.Type == "error" || e.Type == "assert"):
		t.problem(string(e.Args))
	case m.Method == "Runtime.exceptionThrown":
		t.problem(string(e.ExceptionDetails))
	case m.Method == "Log.entryAdded" && e.Entry.Level == "error" && e.Entry.Source != "network":
		t.problem(e.Entry.Text)
	}
}

// awaitLoad waits until what was loaded last is what is wanted.
func (t *Tab) awaitLoad(ctx context.Context, wanted func(loaded string) bool) error {
	for {
		t.mu.Lock()
		loaded, loads := t.loaded, t.loads
		t.mu.Unlock()
		if wanted(loaded) {
			return nil
		}
		select {
		case <-loads:
		case <-t.ended:
			return errEnded
		case <-ctx.Done():
			return fmt.Errorf("the page does not load: %w", ctx.Err())
		}
	}
}

// Navigate goes to a page and waits until it is loaded.
func (t *Tab) Navigate(ctx context.Context, url string) error {
	var began struct{ LoaderID, ErrorText string }
	if err := t.Call(ctx, "Page.navigate", map[string]any{"url": url}, &began); err != nil {
		return err
	}
	if began.ErrorText != "" {
		return fmt.Errorf("%s: %s", url, began.ErrorText)
	}
	if began.LoaderID == "" { // another place of the same page
		return nil
	}
	return t.awaitLoad(ctx, func(loaded string) bool { return loaded == began.LoaderID })
}

// Reload loads the page again.
func (t *Tab) Reload(ctx context.Context) error {
	t.mu.Lock()
	before := t.loaded
	t.mu.Unlock()
	if err := t.Call(ctx, "Page.reload", nil, nil); err != nil {
		return err
	}
	return t.awaitLoad(ctx, func(loaded string) bool { return loaded != before })
}

// Header has these fields be in every request from now on.
func (t *Tab) Header(ctx context.Context, fields map[string]any) error {
	if fields == nil {
		fields = map[string]any{}
	}
	return t.Call(ctx, "Network.setExtraHTTPHeaders", map[string]any{"headers": fields}, nil)
}

// Size makes the page as large as a screen of so many pixels.
func (t *Tab) Size(ctx context.Context, width, height int64) error {
	return t.Call(ctx, "Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false}, nil)
}

// Eval evaluates JavaScript in the page, waits for it if it is a promise, and decodes its value.
func (t *Tab) Eval(ctx context.Context, script string, value any) error {
	var answer struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails json.RawMessage
	}
	params := map[string]any{"expression": script, "awaitPromise": true, "returnByValue": true}
	if err := t.Call(ctx, "Runtime.evaluate", params, &answer); err != nil {
		return err
	}
	if answer.ExceptionDetails != nil {
		return errors.New(string(answer.ExceptionDetails))
	}
	return json.Unmarshal(answer.Result.Value, value)
}

// Picture is what the page looks like, as a PNG.
func (t *Tab) Picture(ctx context.Context) ([]byte, error) {
	var answer struct{ Data []byte }
	err := t.Call(ctx, "Page.captureScreenshot", nil, &answer)
	return answer.Data, err
}
