package integration

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// difference is one that is intended.
type difference struct {
	reason string
	// makes turns what was seen with reverse_proxy into what is to be seen with load_balancer.
	makes func(transcript) transcript
	// sometimes it cannot be told whether it will be seen: then makes takes it out of both.
	sometimes bool
}

// intended are the differences between load_balancer and reverse_proxy that are meant to be, by the names they have in
// docs/differences.md. What exchanges show besides these is a bug.
var intended = map[string]difference{
	"order of fields": {
		reason:    "HTTP gives the order of different fields no meaning, and sorting them costs time.",
		makes:     inBackend(sortFields),
		sometimes: true,
	},
	"absent type": {
		reason: "A guessed type can turn text into HTML (RFC 9110, 8.3).",
		makes:  inProxied(func(s string) string { return guessedType.ReplaceAllString(s, "") }),
	},
	"malformed body": {
		reason: "The client made the mistake, so no backend must be blamed for it.",
		makes: inClient(func(s string) string {
			if !strings.HasPrefix(s, "HTTP/1.1 502 ") {
				return s
			}
			return "HTTP/1.1 400 Bad Request\r\nServer: Caddy\r\nDate: DATE\r\nContent-Length: 0\r\nConnection: close\r\n\r\n[body] \"\"\n[closed]\n"
		}),
	},
	"cookie of a session": {
		reason: "A cookie that is sent before the answer could name a backend that then fails.",
		makes: inClient(func(s string) string {
			early, answer, _ := strings.Cut(s, "\r\n\r\n")
			return cookieLine.ReplaceAllString(early, "") + "\r\n\r\n" + answer
		}),
	},
	"switch of protocols that was not asked for": {
		reason: "Such an answer is not valid HTTP, and an empty 200 would hide that.",
		makes: inProxied(func(s string) string {
			return strings.Replace(s, "HTTP/1.1 200 OK\r\n", "HTTP/1.1 502 Bad Gateway\r\n", 1)
		}),
	},
	"status that HTTP does not have": {
		reason: "The backend is at fault, and the client must be told so, as with any other invalid answer.",
		makes: inClient(func(s string) string {
			if s != "[closed]\n" {
				return s
			}
			return badGateway + "[one more]\n" + onePage
		}),
	},
	"header that stops": {
		reason: "The backend is late, and has not said anything invalid. With `response_header_timeout`, `reverse_proxy` says 504 as well.",
		makes: inClient(func(s string) string {
			return strings.Replace(s, "HTTP/1.1 502 Bad Gateway\r\n", "HTTP/1.1 504 Gateway Timeout\r\n", 1)
		}),
	},
	"words of errors": {
		reason: "Ordinary requests do not go over net/http's transport, and our messages say which step failed.",
		makes: inProxied(func(s string) string {
			return strings.ReplaceAll(strings.Replace(s, "[body] \"EOF\"", "[body] \"reading the answer: unexpected EOF\"", 1), "Content-Length: 3\r\n", "Content-Length: 34\r\n")
		}),
	},
	"retries": {
		reason: "Most failures do not happen again at another backend, and repeating an idempotent request does no harm.",
		makes:  inBackend(func(s string) string { return s + "[another connection]\n" + s }),
	},
	"bodies of retries": {
		reason: "A request whose body is missing is another request.",
		makes: func(t transcript) transcript { // whether the request without its body is begun depends on time
			first, _, ok := strings.Cut(t.backend, "[body] \"body\"\n")
			if !ok || !strings.HasPrefix(t.client, badGateway) {
				return t
			}
			first += "[body] \"body\"\n"
			return transcript{
				backend: first + "[another connection]\n" + first,
				client:  "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: text/plain\r\nVia: 1.1 Caddy\r\nDate: DATE\r\n\r\n[body] \"ok\"\n[one more]\n" + onePage,
			}
		},
	},
	"last answer": {
		reason: "The backend's answer is worth more to a client than an empty one.",
		makes: inProxied(func(s string) string {
			if !strings.HasPrefix(s, "HTTP/1.1 503 ") {
				return s
			}
			return "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\nContent-Type: text/plain\r\nVia: 1.1 Caddy\r\nX-Retry: yes\r\nDate: DATE\r\n\r\n[body] \"busy\"\n"
		}),
	},
	"backends that cannot be reached": {
		reason: "The pool is temporarily unavailable, and the status lets clients and other proxies distinguish that from a bad answer.",
		makes: inProxied(func(s string) string {
			return strings.Replace(s, "HTTP/1.1 502 Bad Gateway\r\n", "HTTP/1.1 503 Service Unavailable\r\nRetry-After: SECONDS\r\n", 1)
		}),
	},
}

// overReloads are those that no exchange shows, with their reasons. TestStreamsBesideReverseProxy shows them.
var overReloads = map[string]string{
	"streams over reloads": "A reload that keeps a backend is no reason to disconnect its clients, who would all come back at once.",
	"streams at the exit":  "Clients can tell an exit from a failure, and none of them can hold it up.",
}

// What the client got where the proxy had nothing from a backend, and from the page that is no backend's.
const (
	badGateway = "HTTP/1.1 502 Bad Gateway\r\nServer: Caddy\r\nDate: DATE\r\nContent-Length: 0\r\n\r\n[body] \"\"\n"
	onePage    = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nServer: Caddy\r\nDate: DATE\r\nContent-Length: 3\r\nConnection: close\r\n\r\nend\n[closed]\n"
)

var cookieLine = regexp.MustCompile(`\r\nSet-Cookie: [^\r\n]*`)

var guessedType = regexp.MustCompile(`(?m)^Content-Type: text/plain; charset=utf-8\r\n`)

// inClient changes what the client got.
func inClient(change func(string) string) func(transcript) transcript {
	return func(t transcript) transcript {
		t.client = change(t.client)
		return t
	}
}

// inProxied changes what the client got before it asked for the page that is no backend's.
func inProxied(change func(string) string) func(transcript) transcript {
	return inClient(func(s string) string {
		before, after, more := strings.Cut(s, "[one more]\n")
		if before = change(before); more {
			return before + "[one more]\n" + after
		}
		return before
	})
}

// inBackend changes what the backend saw.
func inBackend(change func(string) string) func(transcript) transcript {
	return func(t transcript) transcript {
		t.backend = change(t.backend)
		return t
	}
}

// sortFields sorts the fields of each head in what a backend saw by their names. Values of one field keep their order.
func sortFields(text string) string {
	all := strings.SplitAfter(text, "\r\n")
	for i := 0; i < len(all); i++ {
		from := i + 1 // the first line is none
		for i < len(all) && all[i] != "\r\n" && all[i] != "" {
			i++
		}
		if from < i {
			slices.SortStableFunc(all[from:i], func(a, b string) int {
				nameOfA, _, _ := strings.Cut(a, ":")
				nameOfB, _, _ := strings.Cut(b, ":")
				return strings.Compare(nameOfA, nameOfB)
			})
		}
	}
	return strings.Join(all, "")
}

// TestIntendedDifferences: the page lists those that the tests know, with their reasons, and no others.
func TestIntendedDifferences(t *testing.T) {
	inExchanges := make(map[string]string)
	for name, d := range intended {
		inExchanges[name] = d.reason
	}
	for heading, known := range map[string]map[string]string{"In one exchange": inExchanges, "Over reloads and at the exit": overReloads} {
		_, list, _ := strings.Cut(read(t, "../docs/differences.md"), "\n## "+heading+"\n")
		list, _, _ = strings.Cut(list, "\n## ")
		listed := map[string]bool{}
		for _, section := range strings.Split(list, "\n### ")[1:] {
			name, text, _ := strings.Cut(section, "\n")
			listed[name] = true
			reason, ok := known[name]
			if !ok {
				t.Errorf("docs/differences.md has %q, which no test knows", name)
				continue
			}
			text = strings.Join(strings.Fields(text), " ")
			for _, part := range []string{"`reverse_proxy`: ", "`load_balancer`: ", "Why: " + reason} {
				if !strings.Contains(text, part) {
					t.Errorf("docs/differences.md, %s: it does not say %q", name, part)
				}
			}
		}
		for name := range known {
			if !listed[name] {
				t.Errorf("docs/differences.md does not have %q", name)
			}
		}
	}
}
