package config

import "encoding/json"

// Transport has the parts of a transport's config that matter for copying requests.
type Transport struct {
	Protocol      string `json:"protocol"`
	ProxyProtocol string `json:"proxy_protocol"`
	TLS           struct {
		ServerName string `json:"server_name"`
	} `json:"tls"`
}

// ReadTransport reads a transport's config. It returns the zero Transport if there is none, or if it is invalid: loading the transport returns
// the error.
func ReadTransport(raw json.RawMessage) (t Transport) {
	if json.Unmarshal(raw, &t) != nil {
		return Transport{}
	}
	return t
}
