-- What has changed in a topic. Keys: texts by id, ids by number, ids that were removed by number, what the
-- store is. Arguments: since which number, how many. Returns the epoch of the store, where to go on,
-- whether there is more, and then each id with its text, or with nothing.
local texts, ids, gone = KEYS[1], KEYS[2], KEYS[3]
local epoch = redis.call('HGET', KEYS[4], 'epoch')
if not epoch then
    return {}
end
local most = tonumber(ARGV[2])
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

local function behind(key)
    return redis.call('ZRANGEBYSCORE', key, '(' .. ARGV[1], '+inf', 'WITHSCORES', 'LIMIT', 0, most + 1)
end

local there, removed = behind(ids), behind(gone)
local answer = { epoch, ARGV[1], 0 }
local one, other, count = 1, 1, 0
while there[one] or removed[other] do
    if count == most then
        answer[3] = 1
        break
    end
    count = count + 1
    local is_there = there[one]
    if is_there and removed[other] then
        is_there = tonumber(there[one + 1]) < tonumber(removed[other + 1])
    end
    if is_there then
        local id = there[one]
        local value = redis.call('HGET', texts, id)
        local colon = value and string.find(value, ':', 1, true)
        if colon and tonumber(string.sub(value, 1, colon - 1)) > now_ms then
            answer[#answer + 1] = id
            answer[#answer + 1] = string.sub(value, colon + 1)
        end
        answer[2] = there[one + 1]
        one = one + 2
    else
        answer[#answer + 1] = removed[other]
        answer[#answer + 1] = false
        answer[2] = removed[other + 1]
        other = other + 2
    end
end
return answer
