package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// processes are the processes that this program has started; it stops no others.
type processes struct {
	running []process
}

type process struct {
	*exec.Cmd
	address string // the listen address
}

// start runs a command and waits until it listens on address.
func (p *processes) start(name, address string, command ...string) (pid int, err error) {
	var log bytes.Buffer
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = ownGroup()
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("starting %s: %w", name, err)
	}
	p.running = append(p.running, process{cmd, address})
	if err := waitListening(address); err != nil {
		p.stop()
		return 0, fmt.Errorf("starting %s: %w\n%s", name, err, log.String())
	}
	return cmd.Process.Pid, nil
}

// signal sends a signal to the process that listens on address.
func (p *processes) signal(address string, signal os.Signal) error {
	for _, started := range p.running {
		if started.address == address {
			return started.Process.Signal(signal)
		}
	}
	return fmt.Errorf("no process was started on %s", address)
}

// stop ends all processes, the last one first, and waits for them.
func (p *processes) stop() {
	for i := len(p.running) - 1; i >= 0; i-- {
		cmd := p.running[i]
		_ = cmd.Process.Signal(syscall.SIGTERM)
		kill := time.AfterFunc(5*time.Second, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		kill.Stop()
	}
	p.running = nil
}

// used is the resource usage of a tree of processes.
type used struct {
	cpu    time.Duration
	memory int64 // resident bytes
}

// clockTick is the unit of times in /proc: Linux uses 100 per second there, independent of the kernel's own clock.
const clockTick = 10 * time.Millisecond

// usage returns the resource usage of the process and its children, from /proc.
func usage(pid int) (used, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return used{}, err
	}
	all := make(map[int]processStat)
	for _, file := range stats {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended meanwhile
		}
		if s, err := parseStat(string(text)); err == nil {
			all[s.pid] = s
		}
	}
	root, ok := all[pid]
	if !ok {
		return used{}, fmt.Errorf("process %d has ended", pid)
	}
	sum := used{root.cpu, root.memory}
	for _, s := range all {
		if s.parent == pid {
			sum.cpu += s.cpu
			sum.memory += s.memory
		}
	}
	return sum, nil
}

type processStat struct {
	pid, parent int
	cpu         time.Duration
	memory      int64
}

// parseStat parses /proc/<pid>/stat, see proc(5). The name in parentheses may contain any character.
func parseStat(text string) (processStat, error) {
	open, end := strings.IndexByte(text, '('), strings.LastIndexByte(text, ')')
	if open < 0 || end < open {
		return processStat{}, fmt.Errorf("stat %q: no name", text)
	}
	fields := strings.Fields(text[end+1:]) // from the third field on
	if len(fields) < 22 {
		return processStat{}, fmt.Errorf("stat %q: too short", text)
	}
	var numbers [5]int64
	for i, at := range []int{1, 11, 12, 21} { // ppid, utime, stime, rss
		n, err := strconv.ParseInt(fields[at], 10, 64)
		if err != nil {
			return processStat{}, fmt.Errorf("stat %q: %w", text, err)
		}
		numbers[i] = n
	}
	pid, err := strconv.Atoi(strings.TrimSpace(text[:open]))
	if err != nil {
		return processStat{}, fmt.Errorf("stat %q: %w", text, err)
	}
	return processStat{
		pid: pid, parent: int(numbers[0]),
		cpu:    time.Duration(numbers[1]+numbers[2]) * clockTick,
		memory: numbers[3] * int64(os.Getpagesize()),
	}, nil
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// waitListening polls until a process listens on address.
func waitListening(address string) error {
	deadline := time.Now().Add(15 * time.Second)
	for {
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			return conn.Close()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("nothing listens on %s: %w", address, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
