package line

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// namespace is a network namespace with threads inside. A thread never leaves it:
// it ends with the goroutine that is locked to it.
type namespace struct {
	file    *os.File // holds it
	jobs    chan job
	threads sync.WaitGroup

	mu   sync.Mutex
	idle int // threads that wait for a job, or are about to
}

type job struct {
	f    func() error
	done chan error
}

// newNamespace runs setup inside, before anything else.
func newNamespace(setup func() error) (*namespace, error) {
	ns := &namespace{jobs: make(chan job)}
	made := make(chan error, 1)
	ns.thread(func() {
		err := ns.make()
		if err == nil {
			err = setup()
		}
		ns.idle = 1
		made <- err
		if err == nil {
			ns.work()
		}
	})
	if err := <-made; err != nil {
		ns.close()
		return nil, err
	}
	return ns, nil
}

func (ns *namespace) make() (err error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("make a network namespace: %w", err)
	}
	ns.file, err = os.Open("/proc/thread-self/ns/net")
	return err
}

func (ns *namespace) thread(f func()) {
	ns.threads.Go(func() { ownThread(f) })
}

// ownThread runs f on a thread of its own that ends with it. The first thread of
// the process cannot end: it would stay in the wrong namespace, and so would
// /proc/self.
func ownThread(f func()) {
	runtime.LockOSThread()
	if unix.Gettid() != unix.Getpid() {
		f()
		return // to the goroutine's end, locked
	}
	// While this goroutine has the first thread, another has not.
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		f()
	}()
	<-done
	runtime.UnlockOSThread()
}

// work runs jobs until close.
func (ns *namespace) work() {
	for j := range ns.jobs {
		ns.run(j)
	}
}

func (ns *namespace) run(j job) {
	err, returned := errors.New("line: the function ended its goroutine"), false
	defer func() {
		if returned {
			ns.mu.Lock()
			ns.idle++
			ns.mu.Unlock()
		}
		j.done <- err
	}()
	err = j.f()
	returned = true
}

// do runs f on a thread inside: one that has nothing to do, or a new one.
// There are as many as there ever were calls at once.
func (ns *namespace) do(f func() error) error {
	j := job{f: f, done: make(chan error, 1)}
	ns.mu.Lock()
	found := ns.idle > 0
	if found {
		ns.idle--
	}
	ns.mu.Unlock()
	if found {
		ns.jobs <- j
		return <-j.done
	}
	ns.thread(func() {
		if err := unix.Setns(int(ns.file.Fd()), unix.CLONE_NEWNET); err != nil {
			j.done <- fmt.Errorf("line: enter the network namespace: %w", err)
			return
		}
		ns.run(j)
		ns.work()
	})
	return <-j.done
}

func (ns *namespace) close() error {
	close(ns.jobs)
	ns.threads.Wait()
	if ns.file == nil {
		return nil
	}
	return ns.file.Close()
}
