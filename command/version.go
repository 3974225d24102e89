package command

import (
	"cmp"
	"context"
	"encoding/json"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/caddyserver/caddy/v2"
)

// Version is the version of Ballast, if the build sets it:
//
//	go build -ldflags "-X github.com/ballastlb/ballast/command.Version=v1.2.3" ./cmd/caddy
var Version string

const modulePath = "github.com/ballastlb/ballast"

func (t *tool) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Prints the versions of Ballast and of Caddy",
		Long: `
Prints the versions of Ballast and of Caddy in this program. The running Caddy
may have others.`,
		Example: examples("caddy lb version", "caddy lb version --json | jq -r .ballast"),
		Args:    cobra.NoArgs,
		RunE:    t.offline(func(context.Context, []string) error { return t.showVersion() }),
	}
}

func (t *tool) showVersion() error {
	info, _ := debug.ReadBuildInfo()
	ballast := cmp.Or(Version, versionIn(info), "unknown")
	short, full := caddy.Version()
	if t.flags.json {
		encoded, err := json.Marshal(map[string]string{"ballast": ballast, "caddy": short})
		if err != nil {
			return err
		}
		t.raw(encoded)
		return nil
	}
	t.say("Ballast %s", ballast)
	t.say("Caddy %s", full)
	return nil
}

// versionIn returns the version of Ballast that the Go command has recorded in a program: that of the program itself, or of the module if
// the program was built by xcaddy, for example. It is "" if there is none.
func versionIn(info *debug.BuildInfo) string {
	if info == nil {
		return ""
	}
	for _, m := range append([]*debug.Module{&info.Main}, info.Deps...) {
		if m.Path != modulePath {
			continue
		}
		if m.Replace != nil {
			// The replacement may be a folder, which has no version.
			return cmp.Or(m.Replace.Version, m.Version+" replaced by "+m.Replace.Path)
		}
		return m.Version
	}
	return ""
}
