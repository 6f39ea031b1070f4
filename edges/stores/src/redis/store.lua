-- One batch of questions and changes, in one step.
--
-- KEYS[1]  where the numbers of batches are that were done: a hash, node to number
-- ARGV     node, number of the batch, then operations: a letter and what belongs to it
--
-- A remembered thing is a field of a small hash, a table: short fields in hashes of at most ROOM are
-- what this server keeps in the fewest bytes. A table that is full gets sixteen tables behind it,
-- chosen by the next four bits of the field; what is in it stays. So a field is looked for in one
-- table, and with ten million entries in two.
--
-- "!" in a table: until when it must live, as a backstop for a store that nobody sweeps, with a "+" before
-- it if there are tables behind it. To look for a field that is not there takes longer the more there
-- are, so both are in one. A value that is too long for a short field has a key of its own, and the
-- field says "*".

local ROOM, SHORT, GRACE_S = 112, 60, 600
local TALLY_PARTS = 32
local HALF_LIFE_MS = 14 * 24 * 3600000
local LEAST = 0.25

local call, pack, unpack_ = redis.call, struct.pack, struct.unpack
local now = 0

-- Whether something of `at` that counts for `length` counts now.
local function holds(at, length)
  return now < at + length and at <= now + length
end

local keeps = {}
local function keep_of(class)
  if not keeps[class] then
    local value = 1000
    for _ = 1, class do value = value * 1.09 end
    keeps[class] = math.floor(value)
  end
  return keeps[class]
end

-- Whether there are tables behind one of which "!" says this.
local function is_split(lives) return lives and lives:byte() == 43 end

-- The table that has the field with its value, else the one where it belongs.
local function seek(root, field)
  local at, depth = root, 0
  while true do
    local found = call('HMGET', at, field, '!')
    if found[1] or not is_split(found[2]) then return at, found[1], found[2] end
    local byte = field:byte(math.floor(depth / 2) % #field + 1)
    local nibble = depth % 2 == 0 and math.floor(byte / 16) or byte % 16
    at = at .. string.char(65 + nibble)
    depth = depth + 1
    if depth > 2 * #field then return at, false, false end
  end
end

-- Puts a value where `seek` said. `keep` is how long from now it is of use, in milliseconds.
local function put(root, field, value, keep, at, before, lives)
  if not before then
    local size = call('HLEN', at)
    if size >= ROOM and #at - #root < 2 * #field then
      call('HSET', at, '!', '+' .. (lives or '0'))
      return put(root, field, value, keep, seek(root, field))
    end
    if size == 0 then call('SADD', root:match('^[^}]*}') .. 't', at) end
  end
  if #value > SHORT then
    call('SET', at .. '*' .. field, value, 'PX', string.format('%.0f', keep + GRACE_S * 1000))
    if before ~= '*' then call('HSET', at, field, '*') end
  else
    if before == '*' then call('DEL', at .. '*' .. field) end
    call('HSET', at, field, value)
  end
  -- Its life is made longer in large steps, so that it seldom is.
  local till = now + keep
  if not lives or tonumber(lives) < till then
    local longer = till + math.floor(keep / 4)
    call('HSET', at, '!', string.format(is_split(lives) and '+%.0f' or '%.0f', longer))
    call('PEXPIRE', at, string.format('%.0f', longer - now + GRACE_S * 1000))
  end
end

local function drop(at, field, value)
  if value == '*' then call('DEL', at .. '*' .. field) end
  if value then call('HDEL', at, field) end
end

-- Finds a value, whether it is short or not.
local function get(root, field)
  local at, value, lives = seek(root, field)
  if value == '*' then return at, call('GET', at .. '*' .. field), lives, '*' end
  return at, value, lives, value
end

-- Counts: the window in six bytes, then buckets, each its last moment and what it holds.

local function read_tally(cell)
  local lasts, amounts = {}, {}
  if not cell then return 0, lasts, amounts end
  local per, place = unpack_('>I6', cell)
  while place <= #cell do
    lasts[#lasts + 1], amounts[#amounts + 1], place = unpack_('>I6I6', cell, place)
  end
  return per, lasts, amounts
end

local function write_tally(per, lasts, amounts)
  local parts = { pack('>I6', per) }
  for i = 1, #lasts do
    parts[#parts + 1] = pack('>I6I6', lasts[i], math.min(amounts[i], 281474976710655))
  end
  return table.concat(parts)
end

local function width_of(per) return math.max(1, math.ceil(per / TALLY_PARTS)) end

local function used(lasts, amounts, per)
  local sum, frees = 0, 0
  for i = 1, #lasts do
    if amounts[i] > 0 and holds(lasts[i], per) then
      sum = sum + amounts[i]
      if frees == 0 then frees = lasts[i] + per end
    end
  end
  return sum, frees
end

local function add(lasts, amounts, per, amount)
  local kept, sums, newest = {}, {}, nil
  for i = 1, #lasts do
    if amounts[i] > 0 and holds(lasts[i], per) then
      kept[#kept + 1], sums[#sums + 1] = lasts[i], amounts[i]
      if not newest or lasts[i] > newest then newest = lasts[i] end
    end
  end
  local at, width = math.max(now, newest or 0), width_of(per)
  if newest and math.floor(newest / width) == math.floor(at / width) then
    kept[#kept], sums[#sums] = at, sums[#sums] + amount
  else
    kept[#kept + 1], sums[#sums + 1] = at, amount
  end
  return kept, sums
end

local function count(root, field, per, amount, limit)
  local at, cell, lives, before = get(root, field)
  local _, lasts, amounts = read_tally(cell)
  local sum, frees = used(lasts, amounts, per)
  if limit >= 0 and sum + amount > limit then return { 0, sum, frees } end
  if amount > 0 then
    lasts, amounts = add(lasts, amounts, per, amount)
    put(root, field, write_tally(per, lasts, amounts), lasts[#lasts] - now + per, at, before, lives)
    sum, frees = used(lasts, amounts, per)
  end
  return { 1, sum, frees }
end

local function give_back(root, field, when, amount)
  local at, cell, lives, before = get(root, field)
  if not cell then return end
  local per, lasts, amounts = read_tally(cell)
  local width = width_of(per)
  for i = 1, #lasts do
    if when <= lasts[i] and math.floor(when / width) == math.floor(lasts[i] / width) then
      amounts[i] = math.max(0, amounts[i] - amount)
      put(root, field, write_tally(per, lasts, amounts), per, at, before, lives)
      return
    end
  end
end

-- Sets: the window in six bytes, then members, each eight bytes and when it came in six.

local function distinct(root, field, per, member, most)
  local at, cell, lives, before = get(root, field)
  local kept, first = {}, nil
  if cell then
    for place = 7, #cell - 13, 14 do
      local since = unpack_('>I6', cell, place + 8)
      if cell:sub(place, place + 7) ~= member and holds(since, per) then
        kept[#kept + 1] = cell:sub(place, place + 13)
        if not first or since < first then first = since end
      end
    end
  end
  if #kept < most then
    kept[#kept + 1] = member .. pack('>I6', now)
    if not first or now < first then first = now end
  end
  put(root, field, pack('>I6', per) .. table.concat(kept), per, at, before, lives)
  return { 1, #kept, first and first + per or 0 }
end

-- Histories: seconds of the last change in four bytes, and three weights that decay.

local function read_history(cell)
  if not cell then return 0, 0, 0, 0 end
  local at, a, b, c = unpack_('>I4', cell), unpack_('<f', cell, 5), unpack_('<f', cell, 9),
    unpack_('<f', cell, 13)
  return at, a, b, c
end

local function decayed(weights, from, to)
  local factor = 0.5 ^ (math.max(0, to - from) / HALF_LIFE_MS)
  local sum = 0
  for i = 1, 3 do
    weights[i] = weights[i] * factor
    sum = sum + weights[i]
  end
  if sum < LEAST then return { 0, 0, 0 } end
  return weights
end

local function lasts_of(weights)
  local sum = weights[1] + weights[2] + weights[3]
  if sum <= 0 then return 0 end
  return math.floor(math.min(1000, math.max(0, math.log(sum / LEAST) / math.log(2))) * HALF_LIFE_MS)
end

local function observe(root, field, lesson, weight)
  local at, cell, lives, before = get(root, field)
  local since, a, b, c = read_history(cell)
  local step = math.max(math.floor(now / 1000), since, 1)
  local weights = decayed({ a, b, c }, since * 1000, step * 1000)
  weights[lesson + 1] = weights[lesson + 1] + weight
  local value = pack('>I4', step) .. pack('<f', weights[1]) .. pack('<f', weights[2])
    .. pack('<f', weights[3])
  put(root, field, value, lasts_of(weights), at, before, lives)
end

-- Points in time: six bytes when, one byte the class of how long, one byte how often tried if at all.

local function moment_holds(value)
  local at, class = unpack_('>I6B', value)
  return holds(at, keep_of(class))
end

-- Blocks: when they end and since when in six bytes each, strikes in four, the reason in one, and whom
-- as the log writes him.

local function block(blocks, field, grown, most, up_to, strikes_keep, reason, subject, log)
  local before = call('HGET', blocks, field)
  local ends, strikes = nil, 0
  local function lasts(n)
    -- By squaring, as the nodes reckon it, so that both come to the same millisecond.
    local factor, square, left = 1, grown[2], math.min(n, 64)
    while true do
      if left % 2 == 1 then factor = factor * square end
      left = math.floor(left / 2)
      if left == 0 then break end
      square = square * square
    end
    return math.min(math.floor(grown[1] * factor), math.max(up_to, grown[1]))
  end
  if before then
    local till, since, struck = unpack_('>I6I6I4', before)
    if now < till and since <= now + (till - since) then
      strikes = struck
      ends = math.max(now + lasts(strikes), till)
    elseif now < till + strikes_keep then
      strikes = struck + 1
    end
  end
  ends = ends or now + lasts(strikes)
  local value = pack('>I6I6I4B', ends, now, strikes, reason) .. subject
  call('HSET', blocks, field, value)
  call('XADD', log, 'MAXLEN', '~', most, '*', 'b', field .. value, 'n', ARGV[1])
end

local operations = {
  -- Of which moment all that follows is.
  N = function(i) now = tonumber(ARGV[i + 1]); return i + 2 end,
  -- A question about a value.
  S = function(i)
    local _, value = get(ARGV[i + 1], ARGV[i + 2])
    return i + 3, value
  end,
  -- A point in time, unless one holds.
  R = function(i)
    local root, field, value = ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
    local at, before, lives = seek(root, field)
    if not before or not moment_holds(before) then
      put(root, field, value, tonumber(ARGV[i + 4]), at, before, lives)
    end
    return i + 5
  end,
  -- A point in time, in any case.
  M = function(i)
    local root, field = ARGV[i + 1], ARGV[i + 2]
    local at, before, lives = seek(root, field)
    put(root, field, ARGV[i + 3], tonumber(ARGV[i + 4]), at, before, lives)
    return i + 5
  end,
  E = function(i)
    local root, field = ARGV[i + 1], ARGV[i + 2]
    local at, before = seek(root, field)
    if before and moment_holds(before) then
      local tries = #before > 7 and before:byte(8) or 0
      call('HSET', at, field, before:sub(1, 7) .. string.char(math.min(tries + 1, 15)))
    end
    return i + 3
  end,
  F = function(i)
    local at, value = seek(ARGV[i + 1], ARGV[i + 2])
    drop(at, ARGV[i + 2], value)
    return i + 3
  end,
  C = function(i)
    return i + 6, count(ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3]), tonumber(ARGV[i + 4]),
      tonumber(ARGV[i + 5]))
  end,
  G = function(i)
    give_back(ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3]), tonumber(ARGV[i + 4]))
    return i + 5
  end,
  D = function(i)
    return i + 6, distinct(ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3]), ARGV[i + 4],
      tonumber(ARGV[i + 5]))
  end,
  O = function(i)
    observe(ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3]), tonumber(ARGV[i + 4]))
    return i + 5
  end,
  -- A block that follows from the one before.
  B = function(i)
    block(ARGV[i + 1], ARGV[i + 2], { tonumber(ARGV[i + 3]), tonumber(ARGV[i + 4]) }, ARGV[i + 9],
      tonumber(ARGV[i + 5]), tonumber(ARGV[i + 6]), tonumber(ARGV[i + 7]), ARGV[i + 8],
      ARGV[i + 10])
    return i + 11
  end,
  -- A block as it is.
  P = function(i)
    call('HSET', ARGV[i + 1], ARGV[i + 2], ARGV[i + 3])
    call('XADD', ARGV[i + 5], 'MAXLEN', '~', ARGV[i + 4], '*', 'b', ARGV[i + 2] .. ARGV[i + 3], 'n',
      ARGV[1])
    return i + 6
  end,
  -- The end of a block.
  U = function(i)
    call('HDEL', ARGV[i + 1], ARGV[i + 2])
    call('XADD', ARGV[i + 4], 'MAXLEN', '~', ARGV[i + 3], '*', 'u', ARGV[i + 2], 'n', ARGV[1])
    return i + 5
  end,
  -- News of another kind for the log.
  L = function(i)
    call('XADD', ARGV[i + 1], 'MAXLEN', '~', ARGV[i + 2], '*', 'm', ARGV[i + 3], 'n', ARGV[1])
    return i + 4
  end,
  -- Drops what has run out of a table; how much did, and whether the table stays.
  W = function(i)
    local at, kind = ARGV[i + 1], ARGV[i + 2]
    local all, gone, left, lives = call('HGETALL', at), 0, 0, false
    for n = 1, #all, 2 do
      local field, value = all[n], all[n + 1]
      if field == '!' then
        lives = value
      else
        local cell = value
        if value == '*' then cell = call('GET', at .. '*' .. field) end
        local ends = 0
        if not cell then
          ends = 0
        elseif kind == 'c' then
          local per, lasts, amounts = read_tally(cell)
          for b = 1, #lasts do
            if amounts[b] > 0 then ends = math.max(ends, lasts[b] + per) end
          end
        elseif kind == 'd' then
          local per = unpack_('>I6', cell)
          for place = 7, #cell - 13, 14 do
            ends = math.max(ends, unpack_('>I6', cell, place + 8) + per)
          end
        elseif kind == 'h' then
          local since, a, b, c = read_history(cell)
          ends = since * 1000 + lasts_of({ a, b, c })
        else
          local since, class = unpack_('>I6B', cell)
          ends = since + keep_of(class)
        end
        if ends <= now then
          drop(at, field, value)
          gone = gone + 1
        else
          left = left + 1
        end
      end
    end
    local has_more = false
    if is_split(lives) then
      for nibble = 0, 15 do
        if call('EXISTS', at .. string.char(65 + nibble)) == 1 then
          has_more = true
          break
        end
      end
      if not has_more then call('HSET', at, '!', lives:sub(2)) end
    end
    local stays = 1
    if left == 0 and not has_more then
      call('DEL', at)
      call('SREM', at:match('^[^}]*}') .. 't', at)
      stays = 0
    end
    return i + 3, { gone, stays }
  end,
}

-- How much the tables of a part hold: a letter of each kind, and how many.
operations.K = function(i)
  local sums, answer = {}, {}
  for _, at in ipairs(call('SMEMBERS', ARGV[i + 1])) do
    local size = call('HLEN', at)
    if size > 0 then
      size = size - call('HEXISTS', at, '!')
    else
      call('SREM', ARGV[i + 1], at)
    end
    local kind = at:match('}(.)')
    sums[kind] = (sums[kind] or 0) + size
  end
  for kind, sum in pairs(sums) do
    answer[#answer + 1] = kind
    answer[#answer + 1] = sum
  end
  return i + 2, answer
end

-- Drops blocks of which nobody need know any more, some at a time.
operations.X = function(i)
  local scan = call('HSCAN', ARGV[i + 1], ARGV[i + 2], 'COUNT', 500)
  local gone, keep = 0, tonumber(ARGV[i + 3])
  for n = 1, #scan[2], 2 do
    if unpack_('>I6', scan[2][n + 1]) + keep <= now then
      call('HDEL', ARGV[i + 1], scan[2][n])
      gone = gone + 1
    end
  end
  return i + 4, { tonumber(scan[1]), gone }
end

local node, number = ARGV[1], tonumber(ARGV[2])
if number > 0 then
  local done = call('HGET', KEYS[1], node)
  if done and tonumber(done) >= number then return 'done' end
  call('HSET', KEYS[1], node, ARGV[2])
  -- Processes come and go: what a number is needed for is over long before.
  if not done then call('EXPIRE', KEYS[1], 86400) end
end

local answers, i, last = {}, 3, #ARGV
while i <= last do
  local answer
  i, answer = operations[ARGV[i]](i)
  if answer ~= nil then answers[#answers + 1] = answer end
end
return answers
