package nginx

import (
	"strings"

	"github.com/ballastlb/ballast/command/convert/draft"
)

// idleWords are directives that need no conversion, with the reason.
var idleWords = map[string]string{
	"user": "a service manager runs Caddy", "worker_processes": "Caddy uses all processors", "worker_rlimit_nofile": "a service manager sets the limits", "pid": "a service manager runs Caddy",
	"daemon": "a service manager runs Caddy", "master_process": "Caddy is one process", "worker_cpu_affinity": "Caddy uses all processors", "worker_priority": "a service manager sets it",
	"pcre_jit": "it tunes nginx", "thread_pool": "it tunes nginx", "worker_shutdown_timeout": "see grace_period", "lock_file": "it is about nginx's process", "timer_resolution": "it tunes nginx",
	"error_log": "Caddy logs to standard error", "load_module": "modules are built into Caddy", "env": "Caddy has all environment variables", "worker_connections": "Caddy's sockets need no settings",
	"log_format": "Caddy's access log has all fields, as JSON", "log_not_found": "missing files are not errors", "open_log_file_cache": "it tunes nginx", "access_log": "",
	"sendfile": "it tunes nginx", "tcp_nopush": "it tunes nginx", "tcp_nodelay": "it is on", "types_hash_max_size": "it tunes nginx", "types_hash_bucket_size": "it tunes nginx",
	"server_names_hash_bucket_size": "it tunes nginx", "server_names_hash_max_size": "it tunes nginx", "variables_hash_bucket_size": "it tunes nginx", "variables_hash_max_size": "it tunes nginx",
	"map_hash_bucket_size": "it tunes nginx", "map_hash_max_size": "it tunes nginx", "aio": "it tunes nginx", "directio": "it tunes nginx", "sendfile_max_chunk": "it tunes nginx",
	"default_type": "Caddy knows types of files", "types": "Caddy knows types of files", "charset": "Caddy gives texts a charset", "etag": "files have one", "if_modified_since": "it is the default",
	"server_tokens": "", "reset_timedout_connection": "Caddy closes such connections", "keepalive_requests": "connections are kept as long as both sides allow", "keepalive_disable": "it is for old browsers",
	"gzip_vary": "encode sets Vary", "gzip_static": "see precompressed of file_server", "gzip_disable": "it is for old browsers", "gzip_http_version": "all versions are compressed",
	"gzip_buffers": "it tunes nginx", "http2": "HTTP/2 is on where HTTPS is", "http2_max_concurrent_streams": "it tunes nginx", "http3": "HTTP/3 is on where HTTPS is", "quic_retry": "it tunes nginx",
	"open_file_cache": "it tunes nginx", "open_file_cache_valid": "it tunes nginx", "open_file_cache_min_uses": "it tunes nginx", "open_file_cache_errors": "it tunes nginx",
	"ssl_session_cache": "TLS tickets are on", "ssl_session_timeout": "TLS tickets are on", "ssl_session_tickets": "TLS tickets are on, their keys are exchanged", "ssl_stapling": "Caddy does it by itself",
	"ssl_stapling_verify": "Caddy does it by itself", "ssl_trusted_certificate": "it is for stapling, which Caddy does by itself", "ssl_buffer_size": "it tunes nginx",
	"proxy_http_version": "Caddy uses HTTP/1.1 and keeps connections", "proxy_buffer_size": "answers are passed on as they come", "proxy_buffers": "answers are passed on as they come",
	"proxy_busy_buffers_size": "answers are passed on as they come", "proxy_max_temp_file_size": "answers are passed on as they come", "proxy_temp_file_write_size": "answers are passed on as they come",
	"proxy_temp_path": "answers are passed on as they come", "proxy_request_buffering": "requests are passed on as they come", "client_body_buffer_size": "requests are passed on as they come",
	"client_body_temp_path": "requests are passed on as they come", "client_header_buffer_size": "it tunes nginx", "proxy_headers_hash_max_size": "it tunes nginx", "fastcgi_temp_path": "it tunes nginx",
	"uwsgi_temp_path": "it tunes nginx", "scgi_temp_path": "it tunes nginx", "proxy_headers_hash_bucket_size": "it tunes nginx", "proxy_ssl_session_reuse": "it is the default", "proxy_socket_keepalive": "it is the default", "server_name_in_redirect": "the client's name is used",
	"port_in_redirect": "the client's port is used", "absolute_redirect": "redirects are as they are written", "merge_slashes": "matchers merge them", "limit_req_log_level": "refusals are counted",
	"limit_conn_log_level": "refusals are counted", "ssl_dhparam": "Caddy has its own parameters", "chunked_transfer_encoding": "it is the default", "output_buffers": "it tunes nginx",
	"postpone_output": "it tunes nginx", "fastcgi_buffers": "it tunes nginx", "fastcgi_buffer_size": "it tunes nginx", "underscores_in_headers": "", "recursive_error_pages": "", "rewrite_log": "it is for debugging",
	"lingering_close": "it tunes nginx", "proxy_pass_request_headers": "", "proxy_pass_request_body": "", "msie_padding": "it is for old browsers", "request_pool_size": "it tunes nginx", "index": "", "root": "",
}

// near are directives that Caddy handles with a difference.
var near = map[string]string{
	"server_tokens":             "the answer says Server: Caddy, without a version; header -Server takes it away",
	"gzip_types":                "encode compresses the types of text that it knows by itself; match changes that",
	"gzip_min_length":           "encode's minimum_length is 512 unless it is set",
	"gzip_comp_level":           "encode has a level of its own",
	"gzip_proxied":              "answers of backends are compressed, too",
	"ssl_ciphers":               "Caddy has its own ciphers",
	"ssl_ecdh_curve":            "Caddy has its own curves",
	"ssl_conf_command":          "Caddy has its own settings of TLS",
	"resolver":                  "names are looked up by the system's name servers",
	"resolver_timeout":          "names are looked up by the system's name servers",
	"ssl_certificate":           "no site with TLS uses it",
	"ssl_certificate_key":       "no site with TLS uses it",
	"underscores_in_headers":    "fields with underscores are passed on",
	"ssl_prefer_server_ciphers": "Caddy chooses",
}

var left = map[string]string{
	"include": "convert the file by itself, and put the result here", "client_body_timeout": "read_body of timeouts is for a whole body", "send_timeout": "write of timeouts is for a whole answer",
	"large_client_header_buffers": "see max_header_size in servers", "proxy_cache": "Caddy has no cache of its own", "proxy_cache_path": "Caddy has no cache of its own",
	"proxy_cache_valid": "Caddy has no cache of its own", "proxy_cache_key": "Caddy has no cache of its own", "proxy_cache_bypass": "Caddy has no cache of its own", "proxy_no_cache": "Caddy has no cache of its own",
	"proxy_cache_use_stale": "Caddy has no cache of its own", "proxy_cache_lock": "Caddy has no cache of its own", "proxy_cache_revalidate": "Caddy has no cache of its own", "proxy_cache_methods": "Caddy has no cache of its own",
	"proxy_cache_min_uses": "Caddy has no cache of its own", "proxy_cache_background_update": "Caddy has no cache of its own", "proxy_intercept_errors": "see handle_response in load_balancer",
	"geo": "see the matcher remote_ip", "split_clients": "no proxy_pass to its variable is converted; see canary in docs/canary.md", "sub_filter": "Caddy does not change the text of answers", "mirror": "see mirror in docs/mirror.md",
	"brotli": "Caddy has gzip and zstd", "brotli_types": "Caddy has gzip and zstd", "brotli_comp_level": "Caddy has gzip and zstd", "valid_referers": "see the matcher header", "map": "only maps of values and regular expressions are converted",
	"proxy_cookie_path": "see header_down Set-Cookie", "proxy_cookie_domain": "see header_down Set-Cookie", "proxy_cookie_flags": "see header_down Set-Cookie", "health_check": "see health_check in docs/health.md",
}

// idle marks a directive whose result does not depend on its place. It returns false if it does not know the directive.
func idle(d *directive) bool {
	if why, ok := near[d.name]; ok {
		d.line.Near("%s", why)
		return true
	}
	if why, ok := left[d.name]; ok {
		if d.name == "include" && strings.HasSuffix(d.arg(0), "mime.types") {
			d.line.Idle("Caddy knows types of files")
			return true
		}
		d.line.Leave("%s", why)
		for _, inner := range flat(d.block) {
			inner.line.Leave("it is in %s", d.name)
		}
		return true
	}
	if why := idleWords[d.name]; why != "" {
		d.line.Idle("%s", why)
		for _, inner := range flat(d.block) {
			inner.line.Idle("%s", why)
		}
		return true
	}
	if siteWords[d.name] || strings.HasPrefix(d.name, "proxy_") && d.name != "proxy_pass" {
		if d.arg(0) == "off" {
			d.line.Idle("it is off")
			return true
		}
		if len(d.block) == 0 {
			d.line.Leave("no site here uses it, or it is not understood")
			return true
		}
	}
	if (d.name == "access_log" || strings.HasSuffix(d.name, "gzip")) && (d.arg(0) == "off" || d.name == "access_log") {
		d.line.Idle("it is off where no site has it")
		return true
	}
	return false
}

// siteWords are directives that a site inherits from outside.
var siteWords = map[string]bool{
	"index": true, "gzip": true, "client_max_body_size": true, "ssl_protocols": true, "autoindex": true, "add_header": true, "root": true, "limit_req": true, "limit_conn": true,
	"expires": true, "error_page": true, "keepalive_timeout": true, "ssl_verify_client": true, "ssl_client_certificate": true, "if_modified_since": true,
}

// seeMap records a map. It is written where its variable is used.
func (c *converter) seeMap(d *directive) {
	name := strings.TrimPrefix(d.arg(1), "$")
	if d.arg(0) == "$http_upgrade" {
		d.line.Idle("WebSockets need no header")
		for _, e := range d.block {
			e.line.Idle("WebSockets need no header")
		}
		c.maps[name] = nil
		return
	}
	c.maps[name] = d
}

// useMap writes a map into the site, and returns the placeholder of its variable.
func (s *site) useMap(name string) (string, bool) {
	if s.maps[name] {
		return "{nginx_" + name + "}", true
	}
	d := s.c.maps[name]
	bare := &scope{around: nil}
	source, unknown := bare.value(d.arg(0), "")
	if unknown != "" {
		return "", false
	}
	w := new(draft.Writer)
	w.Open("map", source, "{nginx_"+name+"}")
	fallback := ""
	for _, e := range d.block {
		if e.name == "hostnames" || e.name == "include" || e.name == "volatile" {
			e.line.Leave("%s of a map", e.name)
			return "", false
		}
		v, unknown := bare.value(e.arg(0), "")
		key := strings.TrimPrefix(e.name, `\`)
		if unknown != "" || strings.Contains(v, "{") && strings.HasPrefix(key, "~") || v == "" && e.name != "default" {
			e.line.Leave("the value is not one text")
			return "", false
		}
		switch re, isPattern := strings.CutPrefix(key, "~"); {
		case e.name == "default":
			fallback = v
		case isPattern:
			if rest, fold := strings.CutPrefix(re, "*"); fold {
				re = "(?i)" + rest
			}
			if !s.usable(re) || strings.Contains(re, `"`) { // it begins a line, where caddy fmt would break backquotes
				e.line.Leave("the regular expression cannot be written here")
				return "", false
			}
			w.Line("~"+re, v)
		case key == "default" || key != "" && !safe(key):
			e.line.Leave("the key is not understood")
			return "", false
		default:
			w.Line(key, v)
		}
	}
	for _, e := range d.block {
		e.line.Done()
	}
	d.line.Done()
	w.Line("default", fallback)
	w.Close()
	s.maps[name] = true
	s.mapText.Add(w.String())
	return "{nginx_" + name + "}", true
}
