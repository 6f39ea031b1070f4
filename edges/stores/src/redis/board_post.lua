-- Changes rows of a topic. Keys: texts by id, ids by number, ids that were removed by number, the last
-- number. Arguments: for how long removed ids are kept, then id, whether it stands, for how long, text.
local texts, ids, gone, last = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local now_ms = math.floor(now_us / 1000)
local gone_ms = tonumber(ARGV[1])
local keep_ms = gone_ms
local number = math.max(tonumber(redis.call('GET', last) or '0'), now_us)

local function spelled(number)
    return string.format('%.0f', number)
end

for at = 2, #ARGV, 4 do
    local id, stands, keep, text = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2]), ARGV[at + 3]
    if stands == '1' then
        local before = redis.call('HGET', texts, id)
        if not before or string.sub(before, string.find(before, ':', 1, true) + 1) ~= text then
            number = number + 1
            redis.call('ZADD', ids, spelled(number), id)
            redis.call('ZREM', gone, id)
        end
        redis.call('HSET', texts, id, spelled(now_ms + keep) .. ':' .. text)
        keep_ms = math.max(keep_ms, keep)
    else
        number = number + 1
        redis.call('HDEL', texts, id)
        redis.call('ZREM', ids, id)
        redis.call('ZADD', gone, spelled(number), id)
    end
end
redis.call('SET', last, spelled(number))

-- What has run out goes, some of it each time. Rows that changed long ago are the first.
local over = spelled(now_us - gone_ms * 1000)
for _, id in ipairs(redis.call('ZRANGEBYSCORE', gone, '-inf', over, 'LIMIT', 0, 200)) do
    redis.call('ZREM', gone, id)
end
for _, id in ipairs(redis.call('ZRANGE', ids, 0, 99)) do
    local value = redis.call('HGET', texts, id)
    local colon = value and string.find(value, ':', 1, true)
    if colon and tonumber(string.sub(value, 1, colon - 1)) > now_ms then
        break
    end
    redis.call('HDEL', texts, id)
    redis.call('ZREM', ids, id)
end

-- A board that no node uses any more leaves by itself.
local lasts_ms = math.max(redis.call('PTTL', last), keep_ms + gone_ms)
for _, key in ipairs(KEYS) do
    redis.call('PEXPIRE', key, spelled(lasts_ms))
end
return 1
