package history

import (
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
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
			confirmed, err := Check(c.ops, where, time.Minute)
			if c.err == "" {
				require.NoError(t, err)
				require.True(t, confirmed)
				return
			}
			require.ErrorContains(t, err, c.err)
		})
	}
}

// TestOrderAgainstPorcupine: both say the same of short histories, right and wrong ones.
func TestOrderAgainstPorcupine(t *testing.T) {
	verdicts := map[bool]int{}
	for seed := range uint64(20_000) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var ops []*Operation
		var in []porcupine.Operation
		offset := uint64(0)
		for i := range 1 + rng.IntN(8) {
			// About in order of time, so that some are right.
			o := &Operation{Client: i, Kind: Kind(rng.IntN(3)), Called: time.Duration(1 + i*3 + rng.IntN(12))}
			o.Returned = o.Called + time.Duration(1+rng.IntN(12))
			switch o.Kind {
			case Append:
				o.Offset, o.Values = offset, make([]string, 1+rng.IntN(2))
				offset += uint64(len(o.Values))
				if rng.IntN(4) == 0 {
					o.Returned = 0
				}
			default:
				o.Offset = uint64(max(0, int(offset)-rng.IntN(3)))
			}
			ops = append(ops, o)
			end := int64(o.Returned)
			if end == 0 {
				end = int64(never)
			}
			in = append(in, porcupine.Operation{ClientId: i, Input: o, Call: int64(o.Called), Return: end})
		}
		rng.Shuffle(len(ops), func(i, j int) { ops[i], ops[j] = ops[j], ops[i] })
		err := order(ops)
		require.Equal(t, porcupine.CheckOperations(model, in), err == nil, "seed %d: %v", seed, err)
		verdicts[err == nil]++
	}
	require.Greater(t, verdicts[true], 2000)
	require.Greater(t, verdicts[false], 2000)
}

// A history that is too long for porcupine is decided.
func TestOrderOfMany(t *testing.T) {
	var ops []*Operation
	where := map[string]uint64{}
	for i := range 100_000 {
		value := strconv.Itoa(i)
		where[value] = uint64(i)
		at := time.Duration(i + 1)
		ops = append(ops, &Operation{Client: i % 8, Kind: Append, Values: []string{value}, Called: at, Returned: at + 8, Offset: uint64(i)},
			&Operation{Client: 8 + i%8, Kind: Barrier, Called: at, Returned: at + 8, Offset: uint64(i + 1)})
	}
	_, err := Check(ops, where, time.Millisecond)
	require.NoError(t, err)
	ops[len(ops)/2+1].Offset -= 20
	_, err = Check(ops, where, time.Millisecond)
	require.ErrorContains(t, err, "not linearizable")
}
