package client

import (
	"net"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/zue-log/zue/client/internal/wiretest"
)

func TestVanishedMachinesAreNoticed(t *testing.T) {
	nc, err := dialTCP(t.Context(), wiretest.Start(t, wiretest.Options{}).Address())
	require.NoError(t, err)
	defer nc.Close()
	raw, err := nc.(*net.TCPConn).SyscallConn()
	require.NoError(t, err)
	for option, want := range map[int]int{tcpUserTimeout: 8000, syscall.TCP_KEEPIDLE: 5, syscall.TCP_KEEPINTVL: 1, syscall.TCP_KEEPCNT: 3} {
		var got int
		var failed error
		require.NoError(t, raw.Control(func(fd uintptr) { got, failed = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, option) }))
		require.NoError(t, failed)
		require.Equal(t, want, got, "option %d", option)
	}
}
