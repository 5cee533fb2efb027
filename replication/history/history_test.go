package history

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestCheck(t *testing.T) {
	where := map[string]uint64{"a": 0, "b": 1, "c": 2}
	appended := func(value string, called, returned time.Duration, offset uint64) *Operation {
		return &Operation{Client: int(called), Kind: Append, Values: []string{value}, Called: called, Returned: returned, Offset: offset}
	}
	all := []*Operation{appended("a", 1, 4, 0), appended("b", 2, 5, 1), appended("c", 6, 7, 2)}
	for name, c := range map[string]struct {
		ops []*Operation
		err string
	}{
		"appends":                   {all, ""},
		"a read":                    {append(all[:2:2], &Operation{Kind: Read, Called: 5, Returned: 6, Offset: 1}), ""},
		"a read of what comes":      {append(all[:3:3], &Operation{Kind: Read, Called: 1, Returned: 3, Offset: 2}), "not linearizable"},
		"a barrier":                 {append(all[:3:3], &Operation{Kind: Barrier, Called: 3, Returned: 8, Offset: 3}), ""},
		"a stale barrier":           {append(all[:3:3], &Operation{Kind: Barrier, Called: 8, Returned: 9, Offset: 2}), "not linearizable"},
		"order against time":        {[]*Operation{appended("b", 1, 2, 1), appended("a", 3, 4, 0)}, "not linearizable"},
		"maybe, and it is there":    {[]*Operation{{Kind: Append, Values: []string{"a"}, Called: 1}, appended("b", 2, 3, 1)}, ""},
		"maybe, and it is not":      {append(all[:3:3], &Operation{Kind: Append, Values: []string{"x"}, Called: 1}), ""},
		"lost":                      {[]*Operation{appended("x", 1, 2, 0)}, "acknowledged, and is not in the log"},
		"moved":                     {[]*Operation{appended("b", 1, 2, 0)}, "acknowledged at 0, and is at 1"},
		"refused":                   {append(all[:3:3], &Operation{Kind: Append, Values: []string{"x"}, Called: 1, Returned: 2, Refused: true}), ""},
		"refused, and it is there":  {[]*Operation{{Kind: Append, Values: []string{"a"}, Called: 1, Refused: true}}, "was refused"},
		"a read that found nothing": {append(all[:3:3], &Operation{Kind: Read, Called: 1}), ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := Check(c.ops, where, time.Minute)
			if c.err == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.err)
		})
	}
}
