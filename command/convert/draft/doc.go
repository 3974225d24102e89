// Package draft has what the converters share: the ledger of the input's lines, and the writer of the Caddyfile.
package draft
