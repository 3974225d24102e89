package integration

import (
	"encoding/json"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// askAdmin asks the admin endpoint and returns status and body.
func (c *caddy) askAdmin(method, path string) (int, []byte) {
	c.t.Helper()
	return c.askAdminWith(method, path, "", "")
}

// askAdminWith is askAdmin with a request body of that content type.
func (c *caddy) askAdminWith(method, path, contentType, body string) (status int, text []byte) {
	c.t.Helper()
	err := c.again(func() error {
		r, err := http.NewRequest(method, "http://"+c.admin+path, strings.NewReader(body))
		if err != nil {
			return err
		}
		if contentType != "" {
			r.Header.Set("Content-Type", contentType)
		}
		// The endpoint is replaced by a reload: its connections are not to be kept.
		r.Close = true
		res, err := client.Do(r)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		status = res.StatusCode
		text, err = io.ReadAll(res.Body)
		return err
	})
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, path, err)
	}
	return status, text
}

// api asks the admin endpoint. into is what the answer is decoded into, if it is not nil.
func (c *caddy) api(method, path string, into any) int {
	c.t.Helper()
	status, text := c.askAdmin(method, path)
	if into != nil {
		if err := json.Unmarshal(text, into); err != nil {
			c.t.Fatalf("%s %s: %v: %s", method, path, err, text)
		}
	}
	return status
}

// poolState is what the admin endpoint tells of a pool.
type poolState struct {
	Name        string
	State       string
	Usable      int
	Queue       int
	RetryBudget float64 `json:"retry_budget"`
	Discovery   []struct {
		Source, Error string
		OK            bool
		Since         time.Time
		Targets       int
	}
	Backends []struct {
		Name, Address, Health, Breaker, Reason string
		Usable                                 bool
		InFlight                               int64 `json:"in_flight"`
		Requests, Failures                     uint64
	}
}

// pool returns the state of the one pool there is. A config serves a moment before the API tells of it.
func (c *caddy) pool() poolState {
	c.t.Helper()
	var all []poolState
	waitFor(c.t, "the one pool", func() bool {
		all = nil
		return c.api("GET", "/load_balancer/pools", &all) == http.StatusOK && len(all) == 1
	})
	return all[0]
}

// poolNamed is the pool of that name.
func (c *caddy) poolNamed(name string) (p poolState) {
	c.t.Helper()
	waitFor(c.t, "the pool "+name, func() bool { return c.api("GET", "/load_balancer/pools/"+name, &p) == http.StatusOK })
	return p
}

// metrics returns the metrics that match, by what the expression captures; those that are 0 are left out.
func (c *caddy) metrics(pattern string) map[string]float64 {
	c.t.Helper()
	_, text := c.askAdmin("GET", "/metrics")
	found := make(map[string]float64)
	for _, m := range regexp.MustCompile(`(?m)^`+pattern+`.* (\S+)$`).FindAllStringSubmatch(string(text), -1) {
		if value, err := strconv.ParseFloat(m[len(m)-1], 64); err == nil && value != 0 {
			found[strings.Join(m[1:len(m)-1], " ")] += value
		}
	}
	return found
}

// metric returns the one metric of that name and these labels, which has to be there.
func (c *caddy) metric(name, labels string) float64 {
	c.t.Helper()
	_, text := c.askAdmin("GET", "/metrics")
	if labels != "" {
		labels = "{" + labels + "}"
	}
	match := regexp.MustCompile(`(?m)^` + name + regexp.QuoteMeta(labels) + ` (\S+)$`).FindSubmatch(text)
	if match == nil {
		c.t.Fatalf("no metric %s%s", name, labels)
	}
	n, err := strconv.ParseFloat(string(match[1]), 64)
	if err != nil {
		c.t.Fatal(err)
	}
	return n
}

// limitMetric is a metric of the rate limits.
func (c *caddy) limitMetric(name, labels string) float64 {
	c.t.Helper()
	return c.metric("caddy_ip_rate_limit_"+name, labels)
}
