// Package draft is what the converters have in common: the ledger of the lines that were read, and the Caddyfile that is written.
package draft
