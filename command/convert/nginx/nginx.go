package nginx

import (
	"github.com/ballastlb/ballast/command/convert/draft"
)

func Convert(text string, ledger *draft.Ledger) (string, error) { return "", nil }
