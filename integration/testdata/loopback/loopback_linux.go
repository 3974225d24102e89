package loopback

import (
	"os"

	"golang.org/x/sys/unix"
)

// In a network of its own, the process has to switch the loopback device on.
func init() {
	if os.Getenv("CONFORMANCE_LOOPBACK") == "" {
		return
	}
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		panic(err)
	}
	defer unix.Close(socket)
	device, err := unix.NewIfreq("lo")
	if err != nil {
		panic(err)
	}
	device.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, device); err != nil {
		panic(err)
	}
}
