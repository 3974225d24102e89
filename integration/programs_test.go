package integration

import (
	"os/exec"
	"syscall"
	"testing"
)

// nginxHTTP begins the http block of an nginx that writes only below its prefix.
const nginxHTTP = "pid nginx.pid;\nevents {}\nhttp {\naccess_log off;\nclient_body_temp_path a;\nproxy_temp_path b;\nfastcgi_temp_path c;\nuwsgi_temp_path d;\nscgi_temp_path e;\n"

// startProgram starts a server that is not ours, and waits until it listens at the address. The test stops it at its end, and shows its log
// if it has failed.
func startProgram(t *testing.T, address string, cmd *exec.Cmd) {
	t.Helper()
	log := newLogFile(t)
	log.start(t, cmd)
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("the log of %s:\n%s", cmd.Path, log)
		}
	})
	waitFor(t, cmd.Path+" to listen", func() bool { return canConnect(address) })
}
