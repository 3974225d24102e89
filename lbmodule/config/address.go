package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
)

// ValidateAddress checks a dial address, as far as this is possible without a request.
func ValidateAddress(address string) error {
	if !utf8.ValidString(address) {
		return fmt.Errorf("must be UTF-8")
	}
	if strings.Contains(address, "{") {
		return nil
	}
	parsed, err := caddy.ParseNetworkAddress(address)
	if err != nil {
		return fmt.Errorf("must be a network address: %w", err)
	}
	if parsed.IsUnixNetwork() {
		if parsed.Host == "" || strings.HasSuffix(parsed.Host, "/") {
			return fmt.Errorf("must be the path of a socket")
		}
		return nil
	}
	if parsed.IsFdNetwork() {
		return nil
	}
	if err := validateHost(parsed.Network, parsed.Host); err != nil {
		return err
	}
	if n := parsed.PortRangeSize(); n != 1 {
		return fmt.Errorf("must be one socket, not a range of %d ports", n)
	}
	if parsed.StartPort == 0 {
		return fmt.Errorf("must have a port from 1 to 65535")
	}
	return nil
}

// notInHosts lists characters that no host name contains: neither in DNS, nor in a hosts file, nor of a container.
const notInHosts = "=;,\"'`()<>[]?!&*@#$|\\^%/"

// validateHost rejects what cannot be a host. Otherwise typing errors, and keywords of other load balancers' configs, would become
// backends that are down. An empty host is this machine.
func validateHost(network, host string) error {
	// The part before the first slash is the network.
	if strings.ContainsAny(network, ".:[") {
		return fmt.Errorf("must be a host and a port, without a scheme or a path")
	}
	// Other networks may come from a plugin.
	if family := strings.TrimRight(network, "0123456789"); (family == "tcp" || family == "udp") && !slices.Contains([]string{family, family + "4", family + "6"}, network) {
		return fmt.Errorf("must be at %s, %s4 or %s6", family, family, family)
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return nil // also with a zone
	}
	if strings.Contains(host, ":") {
		return fmt.Errorf("must be one host and one port")
	}
	for _, c := range host {
		if unicode.IsSpace(c) || unicode.IsControl(c) || strings.ContainsRune(notInHosts, c) {
			return fmt.Errorf("must be a host name or an IP address, without %q", c)
		}
	}
	if strings.HasPrefix(host, "-") {
		return fmt.Errorf("must be a host name or an IP address, and must not begin with '-'")
	}
	if strings.Count(host, ".") == 3 && strings.Trim(host, "0123456789.") == "" {
		return fmt.Errorf("must be an IP address with parts from 0 to 255")
	}
	return nil
}
